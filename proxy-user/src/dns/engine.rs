//! The names that are known, who wants them, and when each is asked for. Start at [`Engine::run`].

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::addr::Family;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::lookup::{Found, LOOKUPS_MAX, Lookup};
use super::schedule::{Outcome, Schedule};
use super::{Answer, Request, WantedNames};
use crate::net::NameError;

/// Names that the configuration may want; those beyond, in the order of the alphabet, have no
/// addresses, which is logged.
const FOLLOWED_MAX: usize = 16_384;
/// Names that requests brought and that are kept; beyond, the one that nobody asked for
/// longest goes.
const DYNAMIC_MAX: usize = 1024;
/// A name that no request asks for is forgotten after this (Envoy's dynamic forward proxy:
/// `host_ttl`).
const DYNAMIC_TTL: Duration = Duration::from_secs(300);
/// Requests that wait for one name.
const WAITERS_MAX: usize = 1024;
/// How often resolv.conf and the hosts file are looked at.
const FILES_EVERY: Duration = Duration::from_secs(2);

type Waiter = oneshot::Sender<Result<Arc<[IpAddr]>, NameError>>;

/// One name.
#[derive(Default)]
struct Name {
    is_followed: bool,
    /// When a request last asked for it.
    used: Option<Instant>,
    families: [Option<Records>; 2],
    waiters: Vec<Waiter>,
}

/// One name's records of one family.
struct Records {
    /// Tells this from an earlier one of the same name.
    id: u64,
    schedule: Schedule,
    /// When it is asked for next; `None` while it is.
    due: Option<Instant>,
    state: State,
}

/// What is known.
#[derive(Clone)]
enum State {
    /// Nobody has answered yet, and it was not tried often enough to say so.
    Waiting,
    /// Tried, and nobody answered.
    Failed,
    /// The last answer; empty if there is no address.
    Known(Arc<[IpAddr]>),
}

impl State {
    fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Known(addresses) => addresses,
            Self::Waiting | Self::Failed => &[],
        }
    }
}

/// The thread's work.
pub(super) struct Engine<L> {
    lookup: L,
    answers: mpsc::Sender<Answer>,
    names: HashMap<Arc<str>, Name>,
    due: BTreeSet<(Instant, u64, Arc<str>, bool)>,
    running: JoinSet<(Arc<str>, Family, u64, Found)>,
    wanted: Arc<WantedNames>,
    next_id: u64,
}

impl<L: Lookup> Engine<L> {
    pub(super) fn new(lookup: L, answers: mpsc::Sender<Answer>) -> Self {
        Self {
            lookup,
            answers,
            names: HashMap::new(),
            due: BTreeSet::new(),
            running: JoinSet::new(),
            wanted: Arc::default(),
            next_id: 0,
        }
    }

    /// Works until nobody can want anything any more.
    pub(super) async fn run(
        mut self,
        mut wanted: watch::Receiver<Arc<WantedNames>>,
        mut requests: mpsc::Receiver<Request>,
    ) {
        self.lookup.refresh();
        let mut files = interval(FILES_EVERY);
        files.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.due.first().map(|(due, ..)| *due);
            let may_start = self.running.len() < LOOKUPS_MAX;
            let timer = async {
                match next.filter(|_| may_start) {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What is wanted first: a request that follows from it must see it.
                biased;
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = Arc::clone(&wanted.borrow_and_update());
                    self.follow(wanted);
                }
                _ = files.tick() => {
                    if self.lookup.refresh() {
                        self.ask_all_again();
                    }
                    self.forget_unused();
                }
                Some(done) = self.running.join_next() => {
                    // A lookup that panicked is asked for again when the files change.
                    if let Ok((name, family, id, found)) = done
                        && self.on_found(&name, family, id, found).await.is_err()
                    {
                        return;
                    }
                }
                () = timer => self.start_due(),
                Some(request) = requests.recv() => self.on_request(request),
            }
        }
    }

    fn follow(&mut self, wanted: Arc<WantedNames>) {
        let has_other_families = (wanted.v4, wanted.v6) != (self.wanted.v4, self.wanted.v6);
        self.wanted = wanted;
        if self.wanted.names.len() > FOLLOWED_MAX {
            let count = self.wanted.names.len();
            tracing::error!(
                count,
                "more than {FOLLOWED_MAX} names: the rest are not resolved"
            );
        }
        let wanted = Arc::clone(&self.wanted);
        for (name, entry) in &mut self.names {
            entry.is_followed = wanted.names.contains(name);
        }
        for name in wanted.names.iter().take(FOLLOWED_MAX) {
            let entry = self.names.entry(Arc::clone(name)).or_default();
            if !entry.is_followed {
                entry.is_followed = true;
                // Whoever follows it from now on has not been told what requests learned.
                entry.families = [None, None];
            }
        }
        if has_other_families {
            for entry in self.names.values_mut() {
                for (place, is_wanted) in [wanted.v4, wanted.v6].into_iter().enumerate() {
                    if !is_wanted {
                        entry.families[place] = None;
                    }
                }
            }
        }
        self.forget_unused();
        let names: Vec<Arc<str>> = self.names.keys().cloned().collect();
        for name in names {
            self.add_records(&name);
        }
    }

    /// Makes the records of the wanted families that are missing, due at once.
    fn add_records(&mut self, name: &Arc<str>) {
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        let now = Instant::now();
        for (place, is_wanted) in [self.wanted.v4, self.wanted.v6].into_iter().enumerate() {
            if !is_wanted || entry.families[place].is_some() {
                continue;
            }
            self.next_id += 1;
            entry.families[place] = Some(Records {
                id: self.next_id,
                schedule: Schedule::default(),
                due: Some(now),
                state: State::Waiting,
            });
            self.due
                .insert((now, self.next_id, Arc::clone(name), place == 1));
        }
    }

    /// Names that neither the configuration nor a request wants.
    fn forget_unused(&mut self) {
        let now = Instant::now();
        self.names.retain(|_, entry| {
            let is_used = entry.used.is_some_and(|used| now - used < DYNAMIC_TTL);
            entry.is_followed || is_used || !entry.waiters.is_empty()
        });
        let names = &self.names;
        self.due.retain(|(_, id, name, is_v6)| {
            let records = names
                .get(name)
                .and_then(|entry| entry.families[usize::from(*is_v6)].as_ref());
            records.is_some_and(|records| records.id == *id)
        });
    }

    fn on_request(&mut self, request: Request) {
        let Request { name, answer } = request;
        if !self.names.contains_key(&name) {
            self.make_room();
        }
        let entry = self.names.entry(Arc::clone(&name)).or_default();
        entry.used = Some(Instant::now());
        if entry.waiters.len() >= WAITERS_MAX {
            let _ = answer.send(Err(NameError::Overloaded));
            return;
        }
        entry.waiters.push(answer);
        self.add_records(&name);
        if let Some(entry) = self.names.get_mut(&name) {
            entry.answer_waiters();
        }
    }

    /// One name fewer of those that only requests brought, if there are too many.
    fn make_room(&mut self) {
        let dynamic = || self.names.iter().filter(|(_, entry)| !entry.is_followed);
        if dynamic().count() < DYNAMIC_MAX {
            return;
        }
        let oldest = dynamic().min_by_key(|(_, entry)| entry.used);
        let oldest = oldest.map(|(name, _)| Arc::clone(name));
        if let Some(mut entry) = oldest.and_then(|name| self.names.remove(&name)) {
            for waiter in entry.waiters.drain(..) {
                let _ = waiter.send(Err(NameError::Overloaded));
            }
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        while self.running.len() < LOOKUPS_MAX {
            let Some((due, id, name, is_v6)) = self.due.first().cloned() else {
                return;
            };
            if due > now {
                return;
            }
            self.due.pop_first();
            let records = self
                .names
                .get_mut(&name)
                .and_then(|entry| entry.families[usize::from(is_v6)].as_mut())
                .filter(|records| records.id == id);
            let Some(records) = records else {
                continue;
            };
            records.due = None;
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let lookup = self.lookup.lookup(&name, family);
            self.running
                .spawn(async move { (name, family, id, lookup.await) });
        }
    }

    /// `Err`: nobody takes answers any more.
    async fn on_found(
        &mut self,
        name: &Arc<str>,
        family: Family,
        id: u64,
        found: Found,
    ) -> Result<(), mpsc::error::SendError<Answer>> {
        let place = usize::from(family == Family::V6);
        let refresh = self.wanted.refresh;
        let Some(entry) = self.names.get_mut(name) else {
            return Ok(());
        };
        let records = entry.families[place].as_mut();
        let Some(records) = records.filter(|records| records.id == id) else {
            return Ok(());
        };
        let pause = records
            .schedule
            .next(found.outcome, refresh, fastrand::f64());
        let due = Instant::now() + pause;
        records.due = Some(due);
        self.due
            .insert((due, id, Arc::clone(name), family == Family::V6));
        let before = records.state.clone();
        records.state = match (found.outcome, &before) {
            (Outcome::Found(_), _) => State::Known(found.addresses.into()),
            (Outcome::Empty, _) => State::Known(Arc::from([])),
            // A dead resolver changes nothing for known names.
            (Outcome::Failed, State::Known(addresses)) => State::Known(Arc::clone(addresses)),
            (Outcome::Failed, State::Waiting | State::Failed) => State::Failed,
        };
        let is_new =
            matches!(before, State::Waiting) || before.addresses() != records.state.addresses();
        let addresses = Arc::from(records.state.addresses());
        entry.answer_waiters();
        if is_new && entry.is_followed {
            tracing::debug!(%name, ?family, ?addresses, "resolved");
            let answer = Answer {
                name: Arc::clone(name),
                family,
                addresses,
            };
            self.answers.send(answer).await?;
        }
        Ok(())
    }

    /// Other servers may say something else.
    fn ask_all_again(&mut self) {
        let now = Instant::now();
        self.due.clear();
        for (name, entry) in &mut self.names {
            for (place, records) in entry.families.iter_mut().enumerate() {
                // What is under way comes again in its own time.
                if let Some(records) = records.as_mut().filter(|records| records.due.is_some()) {
                    records.due = Some(now);
                    self.due
                        .insert((now, records.id, Arc::clone(name), place == 1));
                }
            }
        }
    }
}

impl Name {
    /// Answers those who wait, once every family has been tried.
    fn answer_waiters(&mut self) {
        let families = || self.families.iter().flatten();
        if families().any(|records| matches!(records.state, State::Waiting)) {
            return;
        }
        let addresses: Arc<[IpAddr]> = families()
            .flat_map(|records| records.state.addresses().iter().copied())
            .collect();
        let has_failed = families().any(|records| matches!(records.state, State::Failed));
        let answer = match (addresses.is_empty(), has_failed) {
            (false, _) => Ok(addresses),
            (true, true) => Err(NameError::NoAnswer),
            (true, false) => Err(NameError::NoAddress),
        };
        for waiter in self.waiters.drain(..) {
            let _ = waiter.send(answer.clone());
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
