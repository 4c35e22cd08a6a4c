//! `mizzen explain`: where a request would go, and why.

use std::path::PathBuf;

use anyhow::anyhow;

use super::client::Client;
use super::offline::{self, ContextArgs};
use super::output::{self, OutputArg};
use super::{AdminArg, Outcome};
use crate::admin::explain_query;
use crate::admin::view::ExplainQuery;
use crate::compile::explain::{Explanation, Outcome as TrafficOutcome};

/// Flags of `mizzen explain`.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The client pod, as namespace/name.
    #[arg(long, value_name = "NS/POD")]
    from: String,
    /// What it asks for: http://host[:port]/path, https://host or tcp://host:port.
    #[arg(value_name = "URL")]
    url: String,
    /// HTTP method.
    #[arg(
        short = 'X',
        long = "method",
        value_name = "METHOD",
        default_value = "GET"
    )]
    method: String,
    /// A request header; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Look at this directory or file instead of asking the daemon; may be given several times.
    /// The client's Pod must be among it; it needs no uid here, and its own node is taken.
    #[arg(long, value_name = "DIR")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    output: OutputArg,
    #[command(flatten)]
    admin: AdminArg,
}

/// Asks the daemon or a directory, and prints.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<Outcome> {
    let query = ExplainQuery {
        from: args.from.clone(),
        url: args.url.clone(),
        method: args.method.clone(),
        headers: args.headers.clone(),
    };
    let explanation = if args.config.is_empty() {
        Client::new(&args.admin.admin).post("/explain", &query)?
    } else {
        let offline = offline::load_for(&args.config, &args.context, &args.from)?;
        explain_query(&offline.snapshot, &query).map_err(|reason| anyhow!(reason))?
    };
    output::value(args.output.output, &explanation, || explanation.to_string())?;
    Ok(if has_destination(&explanation) {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}

/// Somebody answers the request as configured.
fn has_destination(explanation: &Explanation) -> bool {
    match &explanation.outcome {
        TrafficOutcome::Forward { destinations, .. } => {
            destinations.iter().any(|entry| entry.state == "ok")
        }
        TrafficOutcome::Redirect { .. }
        | TrafficOutcome::DirectResponse { .. }
        | TrafficOutcome::Passthrough => true,
        TrafficOutcome::NotHonoured { .. }
        | TrafficOutcome::NotFound
        | TrafficOutcome::BlackHole => false,
    }
}

/// `name:value`, blanks around both ignored.
fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if http::HeaderName::try_from(name.trim()).is_ok() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        Some(_) | None => Err(format!("expected NAME:VALUE, found {text:?}")),
    }
}
