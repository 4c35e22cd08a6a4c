//! A request as it goes to an endpoint, in the form that the connection speaks.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use super::body::RequestBody;
use crate::proxy::http1::target::Target;

/// One request; its head is read, never taken, so that another attempt can send it again.
#[derive(Debug)]
pub struct UpstreamRequest<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a Target,
    /// Host or `:authority`.
    pub authority: &'a HeaderValue,
    /// All other headers.
    pub headers: &'a HeaderMap,
    /// Body.
    pub body: RequestBody,
}

impl UpstreamRequest<'_> {
    /// The form of HTTP/2: an absolute target, no `host` beside it.
    pub(super) fn into_http2(self) -> Request<RequestBody> {
        let absolute = self.absolute();
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        headers.remove(TRANSFER_ENCODING);
        if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
            headers.remove(CONTENT_LENGTH);
        }
        match absolute {
            Some(uri) => {
                *request.uri_mut() = uri;
                *request.version_mut() = Version::HTTP_2;
            }
            // An authority that is no URI's goes as `host`.
            None => {
                *request.uri_mut() = Uri::from(self.target.to_path_and_query());
                request.headers_mut().insert(HOST, self.authority.clone());
            }
        }
        request
    }

    fn absolute(&self) -> Option<Uri> {
        Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.as_bytes())
            .path_and_query(self.target.to_path_and_query())
            .build()
            .ok()
    }
}
