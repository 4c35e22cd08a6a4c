//! `mizzen get`: lists what the daemon knows.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::Client;
use super::output::{self, Format, OutputArg, Row};
use super::{AdminArg, Outcome};
use crate::admin::view::{
    ClusterView, ConnectionView, EndpointView, FindingView, ListenerView, MapView, PodView,
    RouteView, ServiceView,
};

/// Flags of `mizzen get`.
#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// What is listed.
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
    /// Only entries that contain this text anywhere, such as a name.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    #[command(flatten)]
    output: OutputArg,
    #[command(flatten)]
    admin: AdminArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Services of the registry.
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Endpoints, cluster by cluster.
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
    /// Clusters with their policy, the path that they take and why.
    #[value(alias = "cluster")]
    Clusters,
    /// Rules in order, with destinations and what becomes of them without the proxy.
    #[value(alias = "route")]
    Routes,
    /// What stands at each address and port.
    #[value(alias = "listener")]
    Listeners,
    /// Pods of this node and whether they are captured.
    #[value(alias = "pod")]
    Pods,
    /// Open connections of captured pods.
    #[value(alias = "connection")]
    Connections,
    /// Kernel maps and their fill level.
    #[value(alias = "map")]
    Maps,
    /// What is wrong with the configuration.
    #[value(alias = "finding")]
    Findings,
}

/// Asks and prints.
pub(super) fn run(args: &GetArgs) -> anyhow::Result<Outcome> {
    match args.what {
        What::Services => list::<ServiceView>(args, "services"),
        What::Endpoints => list::<EndpointView>(args, "endpoints"),
        What::Clusters => list::<ClusterView>(args, "clusters"),
        What::Routes => list::<RouteView>(args, "routes"),
        What::Listeners => list::<ListenerView>(args, "listeners"),
        What::Pods => list::<PodView>(args, "pods"),
        What::Connections => list::<ConnectionView>(args, "connections"),
        What::Maps => list::<MapView>(args, "maps"),
        What::Findings => findings(args),
    }
}

fn list<T: Row + Serialize + DeserializeOwned>(
    args: &GetArgs,
    what: &str,
) -> anyhow::Result<Outcome> {
    output::rows(args.output.output, what, &ask::<T>(args, what)?)?;
    Ok(Outcome::Good)
}

/// Findings are lines, as `validate` prints them.
fn findings(args: &GetArgs) -> anyhow::Result<Outcome> {
    let found: Vec<FindingView> = ask(args, "findings")?;
    match args.output.output {
        Format::Text if found.is_empty() => output::print("no findings\n")?,
        Format::Text => {
            let lines: String = found
                .iter()
                .map(|finding| finding.text.clone() + "\n")
                .collect();
            output::print(&lines)?;
        }
        Format::Json | Format::Yaml => output::rows(args.output.output, "findings", &found)?,
    }
    Ok(Outcome::Good)
}

fn ask<T: Row + DeserializeOwned>(args: &GetArgs, what: &str) -> anyhow::Result<Vec<T>> {
    let mut rows: Vec<T> = Client::new(&args.admin.admin).get(&format!("/{what}"))?;
    if let Some(filter) = &args.filter {
        rows.retain(|row| row.cells().iter().any(|cell| cell.contains(filter)));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing;
    use crate::cli::status;
    use crate::settings::AdminAddress;

    #[test]
    fn what_the_daemon_answers_becomes_tables() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("admin.sock");
        let _servers = testing::spawn(&socket, None);
        let address = AdminAddress::Unix(socket);
        let client = Client::new(&address);

        let clusters: Vec<ClusterView> = client.get("/clusters").expect("an answer");
        assert_eq!(
            output::table(&clusters),
            "CLUSTER                                       RULE       ENDPOINTS  DISCOVERY  \
             BALANCER       LIMITS  PATH                  ORIGIN\n\
             outbound|9000|v1|echo.shop.svc.cluster.local  shop/echo  1/2        listed     \
             LEAST_REQUEST  -       kernel: weights only  -\n"
        );
        let routes: Vec<RouteView> = client.get("/routes").expect("an answer");
        let table = output::table(&routes);
        let expected = "80/100 outbound|9000|v1|echo.shop.svc.cluster.local, \
                        20/100 outbound|9000|v2|echo (missing)";
        assert!(table.contains(expected), "{table}");
        assert!(
            table.contains("kernel (weights only)  l4 (the same)"),
            "{table}"
        );
        let pods: Vec<PodView> = client.get("/pods").expect("an answer");
        assert!(output::table(&pods).contains("waiting for cgroup"));
        let maps: Vec<MapView> = client.get("/maps").expect("an answer");
        assert_eq!(
            output::table(&maps),
            "MAP   ENTRIES  CAPACITY\nPODS  1        1024\n"
        );

        let status = status::text(&client.get("/status").expect("an answer"));
        for line in [
            "node       n1 (ready)\n",
            "pods       1 waiting for cgroup\n",
            "findings   1 error, 1 warning\n",
            "  a.yaml:3: VirtualService/shop/v: error: wrong\n",
        ] {
            assert!(status.contains(line), "{line:?} not in\n{status}");
        }
    }

    #[test]
    fn without_a_daemon_the_error_says_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let address = AdminAddress::Unix(directory.path().join("none.sock"));
        let error = Client::new(&address).get::<Vec<MapView>>("/maps");
        let text = error.map(|_| ()).expect_err("nobody is there").to_string();
        for part in [
            "no daemon answers at unix:",
            "mizzen run --config DIR",
            "MIZZEN_ADMIN",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
