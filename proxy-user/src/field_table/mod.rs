//! The table of fields, `docs/fields`, held against the types and against what happens.
//!
//! Every field of every kind has a row there, and every row is tried: a field that is
//! honoured changes the snapshot when it alone changes, one that is not gives its finding.
//! So no field is read and forgotten. Start at [`every_field_has_a_row_and_every_row_a_field`].

mod case;
mod rules;
mod settings;
mod table;

use std::collections::BTreeSet;

use crate::api::schema::field_paths;
use crate::api::{
    AuthorizationPolicy, ConfigMap, ConnectionPoolSettings, DestinationRule, EndpointSlice,
    EnvoyFilter, Gateway, HTTPRetry, Kind, Namespace, Node, ObjectMeta, OutlierDetection,
    PeerAuthentication, Pod, RequestAuthentication, Resource, Secret, Service, ServiceEntry,
    Sidecar, VirtualService, WorkloadEntry, WorkloadGroup,
};

use crate::settings::Layer;

use case::Seen;
use table::{Claim, Row, Table, tables};

/// What a kind's status is called in paths.
const STATUS: &str = "status";

/// The table of Mizzen's own settings.
const SETTINGS: &str = "Settings";

fn paths_of<S: Resource>() -> BTreeSet<String> {
    let mut paths = field_paths::<S>();
    let status = field_paths::<S::Status>();
    paths.extend(status.into_iter().map(|path| format!("{STATUS}.{path}")));
    paths
}

/// All field paths of the kind that a table is about.
fn schema(name: &str) -> BTreeSet<String> {
    if name == "metadata" {
        let paths = field_paths::<ObjectMeta>();
        return paths
            .iter()
            .map(|path| format!("metadata.{path}"))
            .collect();
    }
    match name {
        case::MESH_CONFIG => return mesh_schema(),
        SETTINGS => return settings_schema(),
        _ => {}
    }
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
    match kind.expect("a table has a kind's name, or is metadata.yaml") {
        Kind::VirtualService => paths_of::<VirtualService>(),
        Kind::DestinationRule => paths_of::<DestinationRule>(),
        Kind::ServiceEntry => paths_of::<ServiceEntry>(),
        Kind::WorkloadEntry => paths_of::<WorkloadEntry>(),
        Kind::WorkloadGroup => paths_of::<WorkloadGroup>(),
        Kind::Gateway => paths_of::<Gateway>(),
        Kind::Sidecar => paths_of::<Sidecar>(),
        Kind::EnvoyFilter => paths_of::<EnvoyFilter>(),
        Kind::AuthorizationPolicy => paths_of::<AuthorizationPolicy>(),
        Kind::PeerAuthentication => paths_of::<PeerAuthentication>(),
        Kind::RequestAuthentication => paths_of::<RequestAuthentication>(),
        Kind::Service => paths_of::<Service>(),
        Kind::EndpointSlice => paths_of::<EndpointSlice>(),
        Kind::Pod => paths_of::<Pod>(),
        Kind::Namespace => paths_of::<Namespace>(),
        Kind::Node => paths_of::<Node>(),
        Kind::Secret => paths_of::<Secret>(),
        Kind::ConfigMap => paths_of::<ConfigMap>(),
    }
}

/// Keys that the reader of a settings file knows after this beginning of a text.
fn keys(beginning: &str) -> Vec<String> {
    let end = "}".repeat(beginning.matches('{').count());
    let text = format!("{beginning}nobodyKnowsThis: 1{end}");
    let error = Layer::parse_file("file", &text).expect_err("no such key");
    let error = error.to_string();
    let (_, names) = error
        .split_once("known are ")
        .expect("it says which keys there are");
    names.split(", ").map(str::to_owned).collect()
}

/// Keys of Mizzen's own settings; those of `mesh` have a table of their own.
fn settings_schema() -> BTreeSet<String> {
    let mut paths: BTreeSet<String> = keys("").into_iter().collect();
    let budgets = keys("namespaceBudget: {");
    paths.extend(budgets.iter().map(|key| format!("namespaceBudget.{key}")));
    paths
}

/// Keys of the mesh's settings.
fn mesh_schema() -> BTreeSet<String> {
    let mut paths: BTreeSet<String> = keys("mesh: {").into_iter().collect();
    for block in ["outboundTrafficPolicy", "tcpKeepalive"] {
        let names = keys(&format!("mesh: {{{block}: {{"));
        paths.extend(names.iter().map(|name| format!("{block}.{name}")));
    }
    for (block, fields) in [
        ("defaultHttpRetryPolicy", field_paths::<HTTPRetry>()),
        (
            "defaultTrafficPolicy.connectionPool",
            field_paths::<ConnectionPoolSettings>(),
        ),
        (
            "defaultTrafficPolicy.outlierDetection",
            field_paths::<OutlierDetection>(),
        ),
    ] {
        paths.extend(fields.iter().map(|field| format!("{block}.{field}")));
    }
    paths
}

fn is_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor)
        .is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// Fields that hold a value themselves: a block is what its fields are.
fn leaves(paths: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    let is_leaf = |path: &&String| !paths.iter().any(|other| is_below(other, path));
    paths.iter().filter(is_leaf)
}

/// Whether a row speaks for a field: itself, or a block that is reported as a whole.
fn covers(row: &Row, path: &str) -> bool {
    row.path == path
        || (is_below(path, &row.path) && matches!(row.claim, Claim::Finding { .. }))
        || (row.path.is_empty() && matches!(row.claim, Claim::Finding { .. }))
}

#[test]
fn every_kind_has_a_table() {
    let names: BTreeSet<String> = tables().into_iter().map(|table| table.name).collect();
    for kind in Kind::ALL {
        assert!(names.contains(kind.as_str()), "docs/fields/{kind}.yaml");
    }
    for other in ["metadata", case::MESH_CONFIG, SETTINGS] {
        assert!(names.contains(other), "docs/fields/{other}.yaml");
    }
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    let mut wrong = Vec::new();
    for table in tables() {
        let paths = schema(&table.name);
        for leaf in leaves(&paths) {
            if !table.rows.iter().any(|row| covers(row, leaf)) {
                wrong.push(format!("{}: no row for {leaf}", table.name));
            }
        }
        for row in &table.rows {
            if !row.path.is_empty() && !paths.contains(&row.path) {
                wrong.push(format!("{}: no field {}", table.name, row.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_holds() {
    let sources = case::test_names();
    let mut wrong = Vec::new();
    for table in tables() {
        for row in &table.rows {
            if let Err(reason) = check(&table, row, &sources) {
                wrong.push(format!("{}: {}: {reason}", table.name, row.path));
            }
        }
    }
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} rows:\n{}", wrong.join("\n"));
}

fn check(table: &Table, row: &Row, test_names: &BTreeSet<String>) -> Result<(), String> {
    match &row.claim {
        Claim::HonouredBy(test) => {
            if test_names.contains(test.as_str()) {
                return Ok(());
            }
            Err(format!("there is no test {test}"))
        }
        Claim::Honoured => {
            let (before, after) = both(table, row)?;
            let mut errors = [&before, &after]
                .into_iter()
                .filter_map(|seen| seen.error());
            if let Some(error) = errors.next() {
                return Err(format!("an error beside it: {error}"));
            }
            if before.dump == after.dump {
                return Err("neither snapshot nor finding changed".to_owned());
            }
            Ok(())
        }
        Claim::Finding { code } => {
            let (before, after) = both(table, row)?;
            let at = if row.path.is_empty() {
                String::new()
            } else {
                row.place()
            };
            if !after.has_finding(code, &at) {
                return Err(format!("no finding {code}, but {:?}", after.findings));
            }
            // What the object as a whole gives, it gives without the field too.
            if !row.path.is_empty() && before.has_finding(code, &at) {
                return Err(format!("{code} comes without it too"));
            }
            Ok(())
        }
    }
}

/// What is seen without the row's change and with it.
fn both(table: &Table, row: &Row) -> Result<(Seen, Seen), String> {
    let context = row.context(table)?;
    let mut before = context.clone();
    if let Some(value) = &row.was {
        case::set(&mut before, &row.place(), value, true)?;
    }
    let mut after = before.clone();
    if let Some(value) = &row.is {
        case::set(&mut after, &row.place(), value, false)?;
    } else if !row.path.is_empty() {
        return Err("the row says no value".to_owned());
    }
    Ok((case::see(table, &before), case::see(table, &after)))
}
