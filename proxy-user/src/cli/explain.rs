//! `mizzen explain`: where a request would go, and why.

use serde_json::Value;

use super::client::Client;
use super::output::{self, OutputArg};
use super::{AdminArg, Outcome};
use crate::admin::view::ExplainQuery;

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
    #[command(flatten)]
    output: OutputArg,
    #[command(flatten)]
    admin: AdminArg,
}

/// Asks and prints.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<Outcome> {
    let query = ExplainQuery {
        from: args.from.clone(),
        url: args.url.clone(),
        method: args.method.clone(),
        headers: args.headers.clone(),
    };
    let explanation: Value = Client::new(&args.admin.admin).post("/explain", &query)?;
    output::value(args.output.output, &explanation, String::new)?;
    Ok(Outcome::Good)
}

/// `name:value`, blanks around the value ignored.
fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if http::HeaderName::try_from(name.trim()).is_ok() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        Some(_) | None => Err(format!("expected NAME:VALUE, found {text:?}")),
    }
}
