//! Local replies given the form that this client expects, with the route's response
//! operations where the route is known.

use http::header::{CONNECTION, SERVER};
use http::{HeaderMap, HeaderValue, Method, Response};

use super::call::{Call, ResponseOps};
use super::local_reply::{LocalReply, SERVER_NAME};
use super::response_body::ResponseBody;
use crate::proxy::upstream::WireProtocol;

/// Answers `call` with `reply`. `ops`: none where no route is known.
pub(crate) fn answer(
    call: Call<'_>,
    reply: LocalReply,
    ops: ResponseOps<'_>,
) -> Response<ResponseBody> {
    let Call {
        received,
        headers: request_headers,
        body,
        mut exchange,
        ..
    } = call;
    exchange.add_flags(reply.flags);
    exchange.record.details = reply.details.clone();
    let is_unread = body.is_some_and(|body| body.is_unread());
    let closes = (reply.closes || is_unread) && received.protocol == WireProtocol::Http1;
    let (status, mut headers, data) = reply.into_response(exchange.is_grpc());
    let facts = received.template_facts(&exchange, 0);
    ops.apply(&facts, &request_headers, &mut headers);
    finish(&mut headers, closes);
    exchange.begin_answer(status, &headers);
    let data = if received.method == Method::HEAD {
        bytes::Bytes::new()
    } else {
        data
    };
    let mut response = Response::new(ResponseBody::full(data, exchange));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// What response operations cannot take away.
fn finish(headers: &mut HeaderMap, closes: bool) {
    headers.entry(SERVER).or_insert(SERVER_NAME);
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
