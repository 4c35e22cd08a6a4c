//! The question: a URL, a method and headers.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct ExplainRequest {
    /// How it speaks.
    pub scheme: Scheme,
    /// Host of the URL, without port; a name or an address.
    pub host: String,
    /// Port that is dialled.
    pub port: u16,
    /// Host value as it is sent: a `host` header if given, else that of the URL.
    pub authority: String,
    /// Path without query, normalised.
    pub path: String,
    /// Query without `?`.
    pub query: Option<String>,
    /// Method.
    pub method: String,
    /// Headers, without `host`.
    pub headers: HeaderMap,
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in plain text.
    Http,
    /// TLS; the host is the server name.
    Https,
    /// Bytes.
    Tcp,
}

/// Why a question cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not one of the forms that are understood.
    #[error(
        "expected http://host[:port]/path, https://host[:port] or tcp://host:port, found {0:?}"
    )]
    Url(String),
    /// A header cannot be sent.
    #[error("{0:?} cannot be a header")]
    Header(String),
    /// The path is refused before any rule is asked.
    #[error("the path is refused: {0}")]
    Path(String),
}

impl ExplainRequest {
    /// Reads a URL and headers. `normalize` turns a received path with query into what
    /// rules are matched on.
    ///
    /// # Errors
    /// What is wrong with URL, header or path.
    pub fn parse<'h>(
        url: &str,
        method: &str,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
        normalize: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, BadRequest> {
        let bad = || BadRequest::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (scheme, default_port) = match scheme {
            "http" => (Scheme::Http, Some(80)),
            "https" => (Scheme::Https, Some(443)),
            "tcp" => (Scheme::Tcp, None),
            _ => return Err(bad()),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = split_port(authority).ok_or_else(bad)?;
        let port = port.or(default_port).ok_or_else(bad)?;
        if host.is_empty() || (scheme == Scheme::Tcp && !target.is_empty()) {
            return Err(bad());
        }
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        };
        let target = normalize(&target).map_err(BadRequest::Path)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (target, None),
        };
        let mut request = Self {
            scheme,
            host: host.trim_matches(['[', ']']).to_ascii_lowercase(),
            port,
            authority: authority.to_owned(),
            path,
            query,
            method: method.to_owned(),
            headers: HeaderMap::new(),
        };
        for (name, value) in headers {
            request.add_header(name, value)?;
        }
        Ok(request)
    }

    fn add_header(&mut self, name: &str, value: &str) -> Result<(), BadRequest> {
        if name.eq_ignore_ascii_case("host") {
            value.clone_into(&mut self.authority);
            return Ok(());
        }
        let bad = || BadRequest::Header(format!("{name}: {value}"));
        let parsed_name = name.parse::<HeaderName>().map_err(|_| bad())?;
        let parsed_value = value.parse::<HeaderValue>().map_err(|_| bad())?;
        self.headers.append(parsed_name, parsed_value);
        Ok(())
    }

    /// The host as an address, if it is one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Host and port of an authority; brackets stay with an IPv6 address.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => {
            let port = authority[colon + 1..].parse::<u16>().ok()?;
            Some((&authority[..colon], Some(port)))
        }
        Some(_) | None => Some((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ExplainRequest, BadRequest> {
        ExplainRequest::parse(url, "GET", [("X-A", "1")], |target| Ok(target.to_owned()))
    }

    #[test]
    fn urls_are_split_into_what_is_dialled_and_what_is_sent() {
        for (url, host, port, authority, path, query) in [
            ("http://a", "a", 80, "a", "/", None),
            (
                "http://A:8080/x?y=1",
                "a",
                8080,
                "A:8080",
                "/x",
                Some("y=1"),
            ),
            (
                "http://[fd00::1]:8080/",
                "fd00::1",
                8080,
                "[fd00::1]:8080",
                "/",
                None,
            ),
            ("http://[fd00::1]/", "fd00::1", 80, "[fd00::1]", "/", None),
            ("https://a.com", "a.com", 443, "a.com", "/", None),
            ("tcp://a:9000", "a", 9000, "a:9000", "/", None),
            ("http://a?q", "a", 80, "a", "/", Some("q")),
        ] {
            let found = parse(url).expect(url);
            assert_eq!(found.host, host, "{url}");
            assert_eq!(found.port, port, "{url}");
            assert_eq!(found.authority, authority, "{url}");
            assert_eq!(found.path, path, "{url}");
            assert_eq!(found.query.as_deref(), query, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_the_forms_that_are_understood() {
        for url in [
            "a",
            "ftp://a",
            "tcp://a",
            "http://",
            "http://a:x/",
            "tcp://a:1/p",
        ] {
            assert!(matches!(parse(url), Err(BadRequest::Url(_))), "{url}");
        }
    }
}
