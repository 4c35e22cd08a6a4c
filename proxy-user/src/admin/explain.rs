//! A question in the user's words, answered on a snapshot; for the daemon's API and for
//! the CLI without one.

use super::view::ExplainQuery;
use crate::compile::explain::{ExplainRequest, Explanation, explain};
use crate::net::PodUid;
use crate::proxy::http::{PathRefusal, normalize};
use crate::snapshot::Snapshot;

/// Pods that an error lists.
const NAMES_MAX: usize = 10;

/// Says where the request of `query` would go.
///
/// # Errors
/// The client pod is not one of this node's, or the request cannot be sent; the text
/// says what to give.
pub fn explain_query(snapshot: &Snapshot, query: &ExplainQuery) -> Result<Explanation, String> {
    let uid = find_pod(snapshot, &query.from)?;
    let headers = query
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value));
    let request = ExplainRequest::parse(&query.url, &query.method, headers, normal_path)
        .map_err(|error| error.to_string())?;
    explain(snapshot, uid, &request).ok_or_else(|| format!("pod {} has no view yet", query.from))
}

/// What a worker does to a received target before rules see it.
fn normal_path(target: &str) -> Result<String, String> {
    match normalize(target) {
        Ok(path) => Ok(path.into_owned()),
        Err(PathRefusal::NormalizationFailed) => Err("%00 in a path is answered with 400".into()),
        Err(PathRefusal::AbsolutePathRejected) => Err("* is answered with 404".into()),
    }
}

/// The pod `namespace/name`; a name alone is in `default`.
fn find_pod<'a>(snapshot: &'a Snapshot, from: &str) -> Result<&'a PodUid, String> {
    let (namespace, name) = from.split_once('/').unwrap_or(("default", from));
    let found = snapshot
        .pods
        .values()
        .find(|pod| &*pod.workload.namespace == namespace && &*pod.workload.name == name);
    if let Some(pod) = found {
        return Ok(&pod.uid);
    }
    let mut names: Vec<String> = snapshot
        .pods
        .values()
        .map(|pod| format!("{}/{}", pod.workload.namespace, pod.workload.name))
        .collect();
    names.sort();
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let known = match (names.is_empty(), more) {
        (true, _) => "no pod with a uid is listed for this node (see --node)".to_owned(),
        (false, 0) => format!("there are {}", names.join(", ")),
        (false, more) => format!("there are {} and {more} more", names.join(", ")),
    };
    Err(format!("no pod {namespace}/{name} on this node; {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::snapshot;

    fn query(from: &str, url: &str) -> ExplainQuery {
        ExplainQuery {
            from: from.to_owned(),
            url: url.to_owned(),
            method: "GET".to_owned(),
            headers: Vec::new(),
        }
    }

    #[test]
    fn questions_that_cannot_be_asked_say_why() {
        for (from, url, expected) in [
            (
                "shop/x",
                "http://a/",
                "no pod shop/x on this node; there are shop/web-1",
            ),
            (
                "web-1",
                "http://a/",
                "no pod default/web-1 on this node; there are shop/web-1",
            ),
            ("shop/web-1", "ftp://a/", "expected http://host[:port]/path"),
            ("shop/web-1", "http://a/%00", "%00 in a path"),
        ] {
            let error = explain_query(&snapshot(), &query(from, url)).expect_err(url);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_address_is_explained_by_what_stands_there() {
        let answer = explain_query(&snapshot(), &query("shop/web-1", "tcp://10.96.0.1:9000"));
        let answer = answer.expect("a good question");
        assert_eq!(answer.path, "kernel");
        assert_eq!(answer.found, "exact");
    }
}
