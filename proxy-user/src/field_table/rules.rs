//! The rules of validation, `tests/rules`: each entry breaks one rule by one value, and the
//! object is refused, or accepted with a warning, with a finding that names the field.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::finding::{Finding, Severity};

use super::case::{self, Seen};
use super::table::Table;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Of contexts that name none.
    kind: String,
    contexts: BTreeMap<String, Value>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// A context's name, or the object itself.
    from: Value,
    at: String,
    #[serde(default)]
    is: Value,
    /// Field of the error; without any expectation: `at`.
    error: Option<String>,
    /// Field of the warning.
    warning: Option<String>,
    /// Field of a warning or error that does not refuse the object.
    reported: Option<String>,
    #[serde(default)]
    accepted: bool,
    /// Checklist id, for those who look for its test.
    #[serde(default, rename = "id")]
    _id: String,
}

/// What a data plane does not do yet is no rule of validation.
fn is_rule(finding: &&Finding) -> bool {
    !["not-honoured", "not-enforced", "unsupported-patch"].contains(&finding.code)
}

fn errors(seen: &Seen) -> Vec<String> {
    let findings = seen.findings.iter().filter(is_rule);
    findings
        .filter(|finding| finding.severity == Severity::Error)
        .map(ToString::to_string)
        .collect()
}

fn has(seen: &Seen, field: &str, severities: &[Severity]) -> bool {
    seen.findings.iter().filter(is_rule).any(|finding| {
        severities.contains(&finding.severity)
            && finding.field.as_deref().unwrap_or_default() == field
    })
}

impl Rule {
    fn check(&self, kind: &str, contexts: &BTreeMap<String, Value>) -> Result<(), String> {
        let context = match &self.from {
            Value::String(name) => contexts.get(name).ok_or("no such context")?,
            object => object,
        };
        let table = Table::of_kind(kind);
        let before = case::see(&table, context);
        if !before.is_in_force {
            return Err(format!("the context is refused: {:?}", before.findings));
        }
        let mut changed = context.clone();
        case::set(&mut changed, &self.at, &self.is, true)?;
        let after = case::see(&table, &changed);
        let (field, severities): (&str, &[Severity]) = match self {
            Self { accepted: true, .. } => {
                let errors = errors(&after);
                if !errors.is_empty() || !after.is_in_force {
                    return Err(format!("is refused: {errors:?}"));
                }
                return Ok(());
            }
            Self {
                warning: Some(field),
                ..
            } => (field, &[Severity::Warning]),
            Self {
                reported: Some(field),
                ..
            } => (field, &[Severity::Warning, Severity::Error]),
            Self { error, .. } => (error.as_ref().unwrap_or(&self.at), &[Severity::Error]),
        };
        if !has(&after, field, severities) {
            let found: Vec<String> = after.findings.iter().map(ToString::to_string).collect();
            return Err(format!("nothing about {field}, but {found:?}"));
        }
        let is_refusal = self.warning.is_none() && self.reported.is_none();
        if is_refusal == after.is_in_force {
            return Err("refused and in force do not agree".to_owned());
        }
        if self.warning.is_some() && !errors(&after).is_empty() {
            return Err(format!("an error beside the warning: {:?}", errors(&after)));
        }
        Ok(())
    }
}

#[test]
fn a205_each_rule_of_validation_refuses_or_warns_and_names_the_field() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/rules");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("tests/rules is there") {
        let path = entry.expect("tests/rules is readable").path();
        let text = std::fs::read_to_string(&path).expect("rules are text");
        let file: File =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        for rule in &file.rules {
            count += 1;
            if let Err(reason) = rule.check(&file.kind, &file.contexts) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                wrong.push(format!("{name}: {} = {}: {reason}", rule.at, rule.is));
            }
        }
    }
    assert!(count > 300, "{count} rules");
    assert!(
        wrong.is_empty(),
        "{} rules:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
