//! Remembers what the kernel took, and frees the numbers that it made unreachable.

use std::time::Instant;

use proxy_common::cluster::ClusterValue;

use super::{PendingSlots, Planner, Write, set};

impl Planner {
    /// Remembers a write that the kernel took, and frees what it made unreachable.
    pub(in crate::kernel) fn applied(
        &mut self,
        write: &Write,
        slots: &mut PendingSlots,
        now: Instant,
    ) {
        match *write {
            Write::Scope(id, value) => {
                if let (Some(old), None) = (set(&mut self.present.scopes, id, value), value) {
                    self.scope_ids.remove(&old.key_hash);
                }
            }
            Write::Endpoint(slot, value) => {
                slots.0.insert(slot, value);
            }
            Write::Cluster(id, value) => self.applied_cluster(id, value, slots, now),
            Write::Split(id, value) => drop(set(&mut self.present.splits, id, value)),
            Write::Override(key, value) => drop(set(&mut self.present.overrides, key, value)),
            Write::Service(key, value) => {
                set(&mut self.present.services, key, value);
                if value.is_none() {
                    self.service_ids.remove(&key);
                }
            }
        }
    }

    fn applied_cluster(
        &mut self,
        id: u32,
        value: Option<ClusterValue>,
        slots: &PendingSlots,
        now: Instant,
    ) {
        let old = set(&mut self.present.clusters, id, value).unwrap_or_default();
        let held = self.present.endpoints.remove(&id).unwrap_or_default();
        let new = value.unwrap_or_default();
        let [held_v4, held_v6] = held;
        let ranges = [
            (
                old.start_v4,
                old.count_v4,
                new.start_v4,
                new.count_v4,
                held_v4,
            ),
            (
                old.start_v6,
                old.count_v6,
                new.start_v6,
                new.count_v6,
                held_v6,
            ),
        ];
        let mut lists = [Vec::new(), Vec::new()];
        let mut lost = Vec::new();
        for (list, (old_start, old_count, start, count, held)) in lists.iter_mut().zip(ranges) {
            if (old_start, old_count) == (start, count) {
                *list = held;
                continue;
            }
            self.ranges.give(old_start, old_count, now);
            *list = (start..start.saturating_add(count))
                .filter_map(|slot| slots.0.get(&slot).copied())
                .collect();
            lost.extend(held);
        }
        for endpoint in lost {
            let is_kept = lists
                .iter()
                .flatten()
                .any(|kept| kept.live_id == endpoint.live_id);
            if !is_kept
                && self
                    .live_ids
                    .remove(&(id, endpoint.addr, endpoint.port))
                    .is_some()
            {
                self.live_pool.give(endpoint.live_id, now);
            }
        }
        if value.is_some() {
            self.present.endpoints.insert(id, lists);
        } else {
            self.cluster_ids.remove(&old.key_hash);
            self.cluster_pool.give(id, now);
        }
    }
}
