//! The engine against resolvers that say what a test wants, in a time that a test moves.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::*;
use crate::dns::lookup::Found;

/// What the servers say, and how often they were asked.
#[derive(Clone, Default)]
struct Servers(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    found: HashMap<(Arc<str>, Family), Found>,
    asked: usize,
    has_new_files: bool,
}

impl Servers {
    fn with<T>(&self, act: impl FnOnce(&mut Script) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, name: &str, addresses: &[&str], ttl_s: u64) {
        let found = Found {
            outcome: Outcome::Found(Duration::from_secs(ttl_s)),
            addresses: addresses
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect(),
        };
        self.put(name, found);
    }

    fn put(&self, name: &str, found: Found) {
        self.with(|script| script.found.insert((Arc::from(name), Family::V4), found));
    }

    fn asked(&self) -> usize {
        self.with(|script| script.asked)
    }
}

impl Lookup for Servers {
    fn lookup(&self, name: &Arc<str>, family: Family) -> BoxFuture<'static, Found> {
        let found = self.with(|script| {
            script.asked += 1;
            script.found.get(&(Arc::clone(name), family)).cloned()
        });
        Box::pin(async move { found.unwrap_or(Found::nothing(Outcome::Failed)) })
    }

    fn refresh(&mut self) -> bool {
        self.with(|script| std::mem::take(&mut script.has_new_files))
    }
}

struct Running {
    servers: Servers,
    wanted: watch::Sender<Arc<WantedNames>>,
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Answer>,
}

impl Running {
    fn start() -> Self {
        let servers = Servers::default();
        let (sender, answers) = mpsc::channel(64);
        let (wanted, wanted_receiver) = watch::channel(Arc::default());
        let (requests, requests_receiver) = mpsc::channel(64);
        let engine = Engine::new(servers.clone(), sender);
        tokio::spawn(engine.run(wanted_receiver, requests_receiver));
        Self {
            servers,
            wanted,
            requests,
            answers,
        }
    }

    fn follow(&self, names: &[&str]) {
        let names = names.iter().map(|name| Arc::from(*name)).collect();
        let wanted = WantedNames {
            names,
            v4: true,
            v6: false,
            refresh: Duration::from_secs(60),
        };
        self.wanted.send(Arc::new(wanted)).expect("it runs");
    }

    /// The next change, `name addresses`.
    async fn next(&mut self) -> String {
        let answer = self.answers.recv().await.expect("it runs");
        let ips: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", answer.name, ips.join(","))
    }

    async fn ask(&self, name: &str) -> Result<String, NameError> {
        let (answer, receiver) = oneshot::channel();
        let request = Request {
            name: Arc::from(name),
            answer,
        };
        self.requests.send(request).await.expect("it runs");
        let found = receiver.await.expect("an answer")?;
        let ips: Vec<String> = found.iter().map(ToString::to_string).collect();
        Ok(ips.join(","))
    }

    fn has_nothing_to_say(&mut self) -> bool {
        self.answers.try_recv().is_err()
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_when_the_ttl_is_over_and_only_then() {
    let mut dns = Running::start();
    dns.servers.say("a", &["10.0.0.1"], 30);
    dns.follow(&["a"]);
    assert_eq!(dns.next().await, "a 10.0.0.1");
    dns.servers.say("a", &["10.0.0.2", "10.0.0.1"], 30);
    seconds(29).await;
    assert!(dns.has_nothing_to_say());
    assert_eq!(dns.next().await, "a 10.0.0.2,10.0.0.1");
    seconds(100).await; // the same answer again is no change
    assert!(dns.has_nothing_to_say());
}

#[tokio::test(start_paused = true)]
async fn a_dead_resolver_changes_nothing_for_known_names() {
    let mut dns = Running::start();
    dns.servers.say("a", &["10.0.0.1"], 5);
    dns.follow(&["a", "never"]);
    let mut told = [dns.next().await, dns.next().await];
    told.sort();
    // A name that nobody ever answered is told once, so that nobody waits for it.
    assert_eq!(told, ["a 10.0.0.1", "never "]);
    dns.servers.put("a", Found::nothing(Outcome::Failed));
    let before = dns.servers.asked();
    seconds(3600).await;
    assert!(dns.has_nothing_to_say());
    // Two names, doubling pauses up to 60 s, each shortened by half at most.
    let asked = dns.servers.asked() - before;
    assert!((120..=270).contains(&asked), "{asked} lookups in an hour");
    dns.servers.say("a", &["10.0.0.9"], 5);
    assert_eq!(dns.next().await, "a 10.0.0.9");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_gone_from_dns_has_no_address() {
    let mut dns = Running::start();
    dns.servers.say("a", &["10.0.0.1"], 5);
    dns.follow(&["a"]);
    assert_eq!(dns.next().await, "a 10.0.0.1");
    dns.servers.put("a", Found::nothing(Outcome::Empty));
    assert_eq!(dns.next().await, "a ");
}

#[tokio::test(start_paused = true)]
async fn another_resolv_conf_asks_again_at_once() {
    let mut dns = Running::start();
    dns.servers.say("a", &["10.0.0.1"], 3600);
    dns.follow(&["a"]);
    assert_eq!(dns.next().await, "a 10.0.0.1");
    dns.servers.say("a", &["10.0.0.2"], 3600);
    dns.servers.with(|script| script.has_new_files = true);
    let changed = tokio::time::timeout(Duration::from_secs(5), dns.next()).await;
    assert_eq!(changed.as_deref(), Ok("a 10.0.0.2"));
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_wants_are_no_longer_asked_for() {
    let mut dns = Running::start();
    dns.servers.say("a", &["10.0.0.1"], 1);
    dns.follow(&["a"]);
    dns.next().await;
    dns.follow(&[]);
    seconds(5).await;
    let asked = dns.servers.asked();
    seconds(60).await;
    assert_eq!(dns.servers.asked(), asked);
    // Wanted again, it is told again although nothing changed.
    dns.follow(&["a"]);
    assert_eq!(dns.next().await, "a 10.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn requests_bring_names_that_stay_known_while_they_are_used() {
    let dns = Running::start();
    dns.follow(&[]);
    dns.servers.say("a", &["10.0.0.1"], 10);
    assert_eq!(dns.ask("a").await.as_deref(), Ok("10.0.0.1"));
    assert_eq!(dns.ask("a").await.as_deref(), Ok("10.0.0.1"));
    assert_eq!(
        dns.servers.asked(),
        1,
        "the second request is answered from memory"
    );
    dns.servers.put("a", Found::nothing(Outcome::Failed));
    seconds(60).await;
    assert_eq!(
        dns.ask("a").await.as_deref(),
        Ok("10.0.0.1"),
        "last good answer"
    );
    dns.servers.say("a", &["10.0.0.2"], 10);
    seconds(120).await;
    assert_eq!(
        dns.ask("a").await.as_deref(),
        Ok("10.0.0.2"),
        "kept fresh while in use"
    );
    seconds(400).await;
    let asked = dns.servers.asked();
    seconds(400).await;
    assert_eq!(dns.servers.asked(), asked, "forgotten after five minutes");
    dns.servers.put("b", Found::nothing(Outcome::Empty));
    assert_eq!(dns.ask("b").await, Err(NameError::NoAddress));
    assert_eq!(dns.ask("c").await, Err(NameError::NoAnswer));
}

#[tokio::test(start_paused = true)]
async fn what_requests_bring_is_bounded() {
    let dns = Running::start();
    dns.follow(&[]);
    for number in 0..DYNAMIC_MAX + 10 {
        dns.servers.say(&format!("n{number}"), &["10.0.0.1"], 3600);
        assert!(dns.ask(&format!("n{number}")).await.is_ok());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = dns.servers.asked();
    assert!(dns.ask("n0").await.is_ok());
    assert_eq!(dns.servers.asked(), asked + 1, "the oldest made room");
    let last = format!("n{}", DYNAMIC_MAX + 9);
    assert!(dns.ask(&last).await.is_ok());
    assert_eq!(dns.servers.asked(), asked + 1, "the newest is known");
}
