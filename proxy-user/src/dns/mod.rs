//! Addresses of names: asks the resolvers of resolv.conf, again and again, in a thread of its own.
//!
//! In: the names that the configuration wants followed ([`Dns::follow`]) and names that requests
//! bring ([`NameResolver`]). Out: an [`Answer`] whenever the addresses of a followed name change.
//! A failure changes nothing for a name that was answered before. It knows neither clusters nor
//! connections. Start at [`Dns::spawn`]; `engine` holds the names, `schedule` says when one is
//! asked for again, `lookup` is the only place that speaks DNS.
//!
//! The thread lives where the daemon lives: its network namespace, its resolv.conf and its hosts
//! file, as a sidecar's are its pod's. The addresses are dialled from the client pod's namespace.

mod engine;
mod files;
mod lookup;
mod schedule;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use proxy_common::addr::Family;
use tokio::sync::{mpsc, oneshot, watch};

use crate::net::{NameError, NameResolver};
use engine::Engine;
use lookup::SystemLookup;

/// Requests that wait to be looked at; beyond, [`NameError::Overloaded`].
const REQUESTS_MAX: usize = 1024;

/// Where the system says how names are resolved.
#[derive(Debug, Clone)]
pub struct DnsFiles {
    /// Nameservers, search list, options: resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// Names that are known without asking: hosts(5).
    pub hosts: PathBuf,
}

/// What the configuration wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedNames {
    /// Lower case, as written; a final dot keeps the search list away.
    pub names: BTreeSet<Arc<str>>,
    /// Ask for A records.
    pub v4: bool,
    /// Ask for AAAA records.
    pub v6: bool,
    /// `dnsRefreshRate`: how long until an answer without TTL is asked for again, and the
    /// longest pause after failures.
    pub refresh: Duration,
}

/// The addresses of a followed name have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name.
    pub name: Arc<str>,
    /// Which records.
    pub family: Family,
    /// In the order of the answer; empty if the name has none, or if nobody has answered yet.
    pub addresses: Arc<[IpAddr]>,
}

/// A name that a request brings, and who waits for its addresses.
pub(crate) struct Request {
    name: Arc<str>,
    answer: oneshot::Sender<Result<Arc<[IpAddr]>, NameError>>,
}

/// The resolver's thread. It ends when this is dropped; names that requests bring have no
/// answer from then on.
#[derive(Debug)]
pub struct Dns {
    wanted: watch::Sender<Arc<WantedNames>>,
    requests: mpsc::Sender<Request>,
}

impl Dns {
    /// Starts the thread; it follows nothing yet. `answers` may fill up: the thread then waits.
    ///
    /// # Errors
    /// No thread or no runtime: descriptors or memory are exhausted.
    pub fn spawn(files: DnsFiles, answers: mpsc::Sender<Answer>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (wanted, wanted_receiver) = watch::channel(Arc::default());
        let (requests, requests_receiver) = mpsc::channel(REQUESTS_MAX);
        thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || {
                let engine = Engine::new(SystemLookup::new(files), answers);
                runtime.block_on(engine.run(wanted_receiver, requests_receiver));
            })?;
        Ok(Self { wanted, requests })
    }

    /// From now on these names are resolved and followed, and no others.
    pub fn follow(&self, wanted: WantedNames) {
        self.wanted.send_if_modified(|current| {
            let is_changed = **current != wanted;
            if is_changed {
                *current = Arc::new(wanted);
            }
            is_changed
        });
    }

    /// For workers: resolves what requests ask for.
    #[must_use]
    pub fn resolver(&self) -> Arc<dyn NameResolver> {
        Arc::new(ThreadResolver(self.requests.clone()))
    }
}

/// Hands names to the thread.
struct ThreadResolver(mpsc::Sender<Request>);

impl NameResolver for ThreadResolver {
    fn resolve(&self, name: &str) -> BoxFuture<'static, Result<Arc<[IpAddr]>, NameError>> {
        let (answer, receiver) = oneshot::channel();
        let request = Request {
            name: Arc::from(name),
            answer,
        };
        let is_taken = self.0.try_send(request).is_ok();
        Box::pin(async move {
            if !is_taken {
                return Err(NameError::Overloaded);
            }
            receiver.await.unwrap_or(Err(NameError::NoAnswer))
        })
    }
}
