//! Executes a plan's writes, and reads what an earlier daemon left.

use std::time::Instant;

use aya::maps::{MapError, lpm_trie::Key};
use proxy_common::map;

use super::{
    KernelError,
    load::Maps,
    sync::{EntryKey, PendingSlots, Plan, Planner, SyncProblem, SyncReport, Tables, Write},
};

/// Problems listed by name; beyond them one line says how many more there are.
const PROBLEMS_MAX: usize = 100;

/// Executes `plan`; a write that fails becomes a problem, and the next sync tries again.
pub(super) fn execute(
    maps: &mut Maps,
    planner: &mut Planner,
    plan: Plan,
    now: Instant,
) -> SyncReport {
    let mut report = SyncReport {
        problems: plan.problems.clone(),
        ..SyncReport::default()
    };
    let mut slots = PendingSlots::default();
    let mut failed = 0_usize;
    for write in &plan.writes {
        match execute_one(maps, write) {
            Ok(()) => {
                planner.applied(write, &mut slots, now);
                if is_removal(write) {
                    report.removed += 1;
                } else {
                    report.written += 1;
                }
            }
            Err(error) => {
                failed += 1;
                if failed <= PROBLEMS_MAX {
                    report.problems.push(problem(&plan, write, &error));
                }
            }
        }
    }
    if failed > PROBLEMS_MAX {
        let message = format!(
            "{} more entries could not be written",
            failed - PROBLEMS_MAX
        );
        report.problems.push(SyncProblem {
            name: "kernel maps".into(),
            message,
        });
    }
    report
}

fn is_removal(write: &Write) -> bool {
    matches!(
        write,
        Write::Scope(_, None)
            | Write::Cluster(_, None)
            | Write::Split(_, None)
            | Write::Override(_, None)
            | Write::Service(_, None)
    )
}

fn execute_one(maps: &mut Maps, write: &Write) -> Result<(), MapError> {
    match *write {
        Write::Scope(id, Some(value)) => maps.scopes.insert(id, value, 0),
        Write::Scope(id, None) => removed(maps.scopes.remove(&id)),
        Write::Endpoint(slot, value) => maps.endpoints.set(slot, value, 0),
        Write::Cluster(id, Some(value)) => maps.clusters.insert(id, value, 0),
        Write::Cluster(id, None) => removed(maps.clusters.remove(&id)),
        Write::Split(id, Some(value)) => maps.splits.insert(id, value, 0),
        Write::Split(id, None) => removed(maps.splits.remove(&id)),
        Write::Override(key, Some(value)) => maps.overrides.insert(key, value, 0),
        Write::Override(key, None) => removed(maps.overrides.remove(&key)),
        Write::Service(EntryKey::Exact(key), Some(value)) => maps.services.insert(key, value, 0),
        Write::Service(EntryKey::Exact(key), None) => removed(maps.services.remove(&key)),
        Write::Service(EntryKey::Cidr(bits, key), Some(value)) => {
            maps.cidrs.insert(&Key::new(bits, key), value, 0)
        }
        Write::Service(EntryKey::Cidr(bits, key), None) => {
            removed(maps.cidrs.remove(&Key::new(bits, key)))
        }
    }
}

/// Removing what is not there is done already.
pub(super) fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn problem(plan: &Plan, write: &Write, error: &MapError) -> SyncProblem {
    let cause = super::load::with_causes(error);
    let (table, name, effect) = match *write {
        Write::Scope(id, _) => (
            map::SCOPES,
            plan.names.scopes.get(&id).cloned(),
            "connections of its pods pass",
        ),
        Write::Endpoint(..) => (
            map::ENDPOINTS,
            None,
            "connections of its cluster keep the earlier endpoints",
        ),
        Write::Cluster(id, _) => (
            map::CLUSTERS,
            plan.names.clusters.get(&id).map(|key| key.name.clone()),
            "its connections take the proxy path",
        ),
        Write::Split(..) => (map::SPLITS, None, "its connections take the proxy path"),
        Write::Override(key, _) => (
            map::OVERRIDES,
            plan.names.services.get(&key.service_id).cloned(),
            "one scope gets what the other scopes get",
        ),
        Write::Service(key, value) => {
            let table = match key {
                EntryKey::Exact(_) => map::SERVICES,
                EntryKey::Cidr(..) => map::SERVICE_CIDRS,
            };
            let name = value.and_then(|value| plan.names.services.get(&value.service_id).cloned());
            (table, name, "its connections pass untouched")
        }
    };
    let message = format!("cannot write eBPF map {table}: {cause}; {effect}");
    SyncProblem {
        name: name.unwrap_or_else(|| table.into()),
        message,
    }
}

/// What the maps hold now.
pub(super) fn read_tables(maps: &Maps) -> Result<Tables, KernelError> {
    let failed = |name: &'static str| move |error: MapError| KernelError::map("read", name, error);
    let mut tables = Tables::default();
    for entry in maps.scopes.iter() {
        let (id, value) = entry.map_err(failed(map::SCOPES))?;
        tables.scopes.insert(id, value);
    }
    for entry in maps.clusters.iter() {
        let (id, value) = entry.map_err(failed(map::CLUSTERS))?;
        tables.clusters.insert(id, value);
        let list = |start: u32, count: u32| {
            (start..start.saturating_add(count))
                .map(|slot| maps.endpoints.get(&slot, 0).map_err(failed(map::ENDPOINTS)))
                .collect::<Result<Vec<_>, _>>()
        };
        let lists = [
            list(value.start_v4, value.count_v4)?,
            list(value.start_v6, value.count_v6)?,
        ];
        tables.endpoints.insert(id, lists);
    }
    for entry in maps.splits.iter() {
        let (id, value) = entry.map_err(failed(map::SPLITS))?;
        tables.splits.insert(id, value);
    }
    for entry in maps.overrides.iter() {
        let (key, value) = entry.map_err(failed(map::OVERRIDES))?;
        tables.overrides.insert(key, value);
    }
    for entry in maps.services.iter() {
        let (key, value) = entry.map_err(failed(map::SERVICES))?;
        tables.services.insert(EntryKey::Exact(key), value);
    }
    for entry in maps.cidrs.iter() {
        let (key, value) = entry.map_err(failed(map::SERVICE_CIDRS))?;
        tables
            .services
            .insert(EntryKey::Cidr(key.prefix_len(), key.data()), value);
    }
    Ok(tables)
}
