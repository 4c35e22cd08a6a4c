//! One request on its way through the proxy: what was received, what is left of it,
//! and the record of it.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Method};

use super::exchange::Exchange;
use super::request_body::{ClientBody, RequestStream};
use super::serve::Connection;
use crate::proxy::http1::target::Target;
use crate::proxy::policy::header_ops::{self, TemplateFacts};
use crate::proxy::upstream::WireProtocol;
use crate::snapshot::matchers::RequestFacts;
use crate::snapshot::policy::HeaderOps;

/// The head as received, before any rule changed it; headers stand beside it in [`Call`].
#[derive(Debug)]
pub(crate) struct Received {
    /// Method.
    pub(crate) method: Method,
    /// Normalised path, raw query.
    pub(crate) target: Target,
    /// Host or `:authority`.
    pub(crate) authority: HeaderValue,
    /// `x-forwarded-proto` if it says http or https, else http.
    pub(crate) scheme: &'static str,
    /// What the client speaks.
    pub(crate) protocol: WireProtocol,
    /// The client's address.
    pub(crate) remote: SocketAddr,
    /// The address it dialled.
    pub(crate) dialled: SocketAddr,
}

impl Received {
    /// The authority as text: strict checking let only printable ASCII pass.
    pub(crate) fn authority_text(&self) -> &str {
        self.authority.to_str().unwrap_or("")
    }

    /// What matchers look at.
    pub(crate) fn facts<'a>(&'a self, headers: &'a HeaderMap) -> RequestFacts<'a> {
        RequestFacts {
            path: self.target.path(),
            query: self.target.query(),
            method: self.method.as_str(),
            scheme: self.scheme,
            authority: self.authority_text(),
            headers,
        }
    }

    /// What header templates may name. `response_code`: 0 for local replies.
    pub(crate) fn template_facts<'a>(
        &'a self,
        exchange: &'a Exchange,
        response_code: u16,
    ) -> TemplateFacts<'a> {
        TemplateFacts {
            method: self.method.as_str(),
            path: self.target.as_str(),
            authority: self.authority_text(),
            scheme: self.scheme,
            downstream_remote: self.remote,
            downstream_local: self.dialled,
            upstream_host: exchange.record.upstream_host,
            protocol: exchange.record.http_version,
            response_code,
            start: exchange.record.start,
            route_name: exchange.record.route_name.as_deref().unwrap_or(""),
        }
    }
}

/// The client's body: not yet touched, or on its way.
#[derive(Debug)]
pub(crate) enum CallBody {
    /// Nobody has asked for it.
    Unread(ClientBody),
    /// Attempts read it.
    Streaming(Rc<RequestStream>),
}

impl CallBody {
    /// Bytes of it are still to come.
    pub(crate) fn is_unread(&self) -> bool {
        match self {
            Self::Unread(_) => true,
            Self::Streaming(stream) => stream.ended_at().is_none(),
        }
    }
}

/// One request.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The connection it came on.
    pub(crate) connection: &'a Connection,
    /// Its head as received.
    pub(crate) received: Received,
    /// Its headers, changed step by step into those of the upstream request.
    pub(crate) headers: HeaderMap,
    /// Its body, if it has one.
    pub(crate) body: Option<CallBody>,
    /// It is a WebSocket handshake.
    pub(crate) is_websocket: bool,
    /// Its record.
    pub(crate) exchange: Box<Exchange>,
}

/// Response header operations: the destination's pass, then the route's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ResponseOps<'a> {
    /// Of the chosen destination.
    pub(crate) destination: Option<&'a HeaderOps>,
    /// Of the route.
    pub(crate) route: Option<&'a HeaderOps>,
}

impl ResponseOps<'_> {
    /// No operation would change anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.destination.is_none_or(HeaderOps::is_empty)
            && self.route.is_none_or(HeaderOps::is_empty)
    }

    /// Both passes. `request`: headers as sent upstream.
    pub(crate) fn apply(
        &self,
        facts: &TemplateFacts<'_>,
        request: &HeaderMap,
        headers: &mut HeaderMap,
    ) {
        for ops in [self.destination, self.route].into_iter().flatten() {
            header_ops::apply_to_response(ops, facts, request, headers);
        }
    }
}
