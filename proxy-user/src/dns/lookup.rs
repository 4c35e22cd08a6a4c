//! Speaks DNS, by the hickory resolver: one name, one family, one answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use proxy_common::addr::Family;

use super::DnsFiles;
use super::files::FileTexts;
use super::schedule::Outcome;

/// Addresses of one answer that are used; a longer answer is cut.
const ADDRESSES_MAX: usize = 256;
/// Lookups at one time, of all names together.
pub(super) const LOOKUPS_MAX: usize = 32;
/// resolv.conf may ask for minutes; a lookup that takes longer has failed.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(20);

/// What the engine asks; the other implementation is its tests'.
pub(super) trait Lookup {
    /// The addresses of one family, in the order of the answer.
    fn lookup(&self, name: &Arc<str>, family: Family) -> BoxFuture<'static, Found>;

    /// Looks whether answers may have changed for a reason of our own: `true` if so.
    fn refresh(&mut self) -> bool;
}

/// What a lookup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) outcome: Outcome,
    /// Empty unless found.
    pub(super) addresses: Vec<IpAddr>,
}

impl Found {
    pub(super) fn nothing(outcome: Outcome) -> Self {
        Self {
            outcome,
            addresses: Vec::new(),
        }
    }
}

/// The system's resolvers.
pub(super) struct SystemLookup {
    files: DnsFiles,
    texts: FileTexts,
    resolver: Option<TokioResolver>,
}

impl SystemLookup {
    pub(super) fn new(files: DnsFiles) -> Self {
        Self {
            files,
            texts: FileTexts::default(),
            resolver: None,
        }
    }
}

impl Lookup for SystemLookup {
    fn lookup(&self, name: &Arc<str>, family: Family) -> BoxFuture<'static, Found> {
        let Some(resolver) = self.resolver.clone() else {
            return Box::pin(async { Found::nothing(Outcome::Failed) });
        };
        let name = Arc::clone(name);
        Box::pin(async move {
            let looked_up = tokio::time::timeout(LOOKUP_TIME_MAX, ask(&resolver, &name, family));
            looked_up.await.unwrap_or_else(|_| {
                tracing::debug!(%name, ?family, "DNS takes too long");
                Found::nothing(Outcome::Failed)
            })
        })
    }

    fn refresh(&mut self) -> bool {
        let texts = FileTexts::read(&self.files);
        if texts == self.texts {
            return false;
        }
        self.texts = texts;
        match build(&self.texts) {
            Ok(resolver) => {
                self.resolver = Some(resolver);
                true
            }
            Err(error) => {
                // The last good one stays, if there is any.
                let file = self.files.resolv_conf.display();
                tracing::warn!(%file, %error, "cannot use it; names resolve as before");
                false
            }
        }
    }
}

async fn ask(resolver: &TokioResolver, name: &str, family: Family) -> Found {
    let record_type = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    match resolver.lookup(name, record_type).await {
        Ok(lookup) => {
            let records = lookup.answers();
            let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
            let ips = records.iter().filter_map(|record| record.data.ip_addr());
            let addresses: Vec<IpAddr> = ips.take(ADDRESSES_MAX).collect();
            if addresses.is_empty() {
                return Found::nothing(Outcome::Empty);
            }
            Found {
                outcome: Outcome::Found(Duration::from_secs(ttl.into())),
                addresses,
            }
        }
        // No such name, or no record of this kind.
        Err(error) if error.is_no_records_found() => Found::nothing(no_records(&error)),
        Err(error) => {
            tracing::debug!(%name, ?family, %error, "DNS fails");
            Found::nothing(Outcome::Failed)
        }
    }
}

/// An answer without records is one unless the server says that it failed.
fn no_records(error: &hickory_resolver::net::NetError) -> Outcome {
    use hickory_resolver::net::{DnsError, NetError};
    use hickory_resolver::proto::op::ResponseCode;
    let is_answer = matches!(
        error,
        NetError::Dns(DnsError::NoRecordsFound(records))
            if matches!(records.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
    );
    if is_answer {
        Outcome::Empty
    } else {
        Outcome::Failed
    }
}

fn build(texts: &FileTexts) -> Result<TokioResolver, String> {
    let text = texts.resolv_conf.as_deref().ok_or("it cannot be read")?;
    let (config, mut options) = parse_resolv_conf(text).map_err(|error| error.to_string())?;
    // Each lookup is one of ours, when its time has come.
    options.cache_size = 0;
    // From our own copy, which is read again when it changes.
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = options.max_active_requests.max(2 * LOOKUPS_MAX);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let mut resolver = builder.build().map_err(|error| error.to_string())?;
    let mut hosts = Hosts::default();
    if let Some(text) = &texts.hosts {
        hosts
            .read_hosts_conf(text.as_slice())
            .map_err(|error| error.to_string())?;
    }
    resolver.set_hosts(Arc::new(hosts));
    Ok(resolver)
}
