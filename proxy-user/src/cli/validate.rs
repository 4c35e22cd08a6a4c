//! `mizzen validate`: what is wrong with configuration files.

use std::path::PathBuf;

use serde_json::json;

use super::Outcome;
use super::offline::{self, Offline};
use super::output::{self, OutputArg};
use crate::finding::Severity;

/// Flags of `mizzen validate`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// Files and directories; all of them together are one configuration.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArg,
    #[command(flatten)]
    context: offline::ContextArgs,
}

/// Reads, compiles and prints the findings.
pub(super) fn run(args: &ValidateArgs) -> anyhow::Result<Outcome> {
    let offline = offline::load(&args.paths, &args.context)?;
    let document = json!({
        "findings": offline.findings.iter().map(crate::admin::finding_view).collect::<Vec<_>>(),
        "objects": offline.objects.len(),
        "skipped": offline.skipped,
    });
    output::value(args.output.output, &document, || lines(&offline))?;
    // Not among the findings, so that those can be read line by line.
    eprintln!("{}", summary(&offline));
    let has_error = offline.findings.iter().any(|finding| finding.is_error());
    Ok(if has_error {
        Outcome::Bad
    } else {
        Outcome::Good
    })
}

/// One line per finding.
fn lines(offline: &Offline) -> String {
    let findings = offline.findings.iter();
    findings.map(|finding| format!("{finding}\n")).collect()
}

fn summary(offline: &Offline) -> String {
    let count = |severity: Severity| {
        let findings = offline.findings.iter();
        findings
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let skipped: usize = offline.skipped.values().sum();
    format!(
        "{} objects, {skipped} of other kinds skipped; {} errors, {} warnings",
        offline.objects.len(),
        count(Severity::Error),
        count(Severity::Warning),
    )
}
