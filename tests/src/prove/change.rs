//! Changes of whole documents: fields removed, doubled, retyped, exchanged, filled from others.

use std::sync::Arc;

use serde_json::{Map, Value, json};

/// Most changes of one input.
const CHANGES_MAX: usize = 5;
/// Most documents of one input: more only take longer.
const DOCUMENTS_MAX: usize = 40;
/// Deeper values are left alone.
const DEPTH_MAX: usize = 12;

/// Texts that mean something somewhere.
const TEXTS: &[&str] = &[
    "",
    "*",
    ".",
    "~",
    "a",
    "b",
    "g",
    "t",
    "a.shop",
    "a.shop.svc.cluster.local",
    "*.shop.svc.cluster.local",
    "other/*",
    "./*",
    "*/*",
    "~/*",
    "shop",
    "other",
    "mesh",
    "shop/gw",
    "v1",
    "v2",
    "80",
    "10.0.0.0/8",
    "10.96.0.1",
    "::1",
    "fd00::/8",
    "0.0.0.0",
    "255.255.255.255/0",
    "1s",
    "0s",
    "1h30m",
    "99999999999h",
    "-1s",
    "HTTP",
    "HTTP2",
    "GRPC",
    "TCP",
    "TLS",
    "HTTPS",
    "UDP",
    "http_proxy",
    "http-x",
    "/",
    "/x",
    "/x/",
    "(a+)+$",
    ".*",
    "\\Q",
    "[",
    "%",
    "%%",
    "%REQ(x)%",
    "%START_TIME(%s)%",
    "\u{0}",
    "\u{e9}",
    "5xx",
    "503,reset",
    "connect-failure",
    "ROUND_ROBIN",
    "PASSTHROUGH",
    "STATIC",
    "DNS",
    "NONE",
    "MESH_INTERNAL",
    "STRICT",
    "ALLOW_ANY",
    "REGISTRY_ONLY",
    "unix:///a",
    "ExternalName",
    "None",
    "Local",
    "ClientIP",
    "PreferClose",
    "2026-01-01T00:00:00Z",
    "default",
];

/// Keys that are worth adding.
const KEYS: &[&str] = &[
    "hosts",
    "http",
    "tls",
    "tcp",
    "match",
    "route",
    "destination",
    "host",
    "subset",
    "port",
    "number",
    "weight",
    "uri",
    "prefix",
    "exact",
    "regex",
    "headers",
    "withoutHeaders",
    "queryParams",
    "gateways",
    "sourceLabels",
    "sourceNamespace",
    "delegate",
    "redirect",
    "rewrite",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirrors",
    "corsPolicy",
    "exportTo",
    "workloadSelector",
    "labels",
    "matchLabels",
    "trafficPolicy",
    "portLevelSettings",
    "loadBalancer",
    "simple",
    "consistentHash",
    "connectionPool",
    "outlierDetection",
    "subsets",
    "addresses",
    "ports",
    "endpoints",
    "resolution",
    "location",
    "egress",
    "ingress",
    "bind",
    "captureMode",
    "outboundTrafficPolicy",
    "metadata",
    "annotations",
    "creationTimestamp",
    "namespace",
    "name",
    "spec",
    "status",
    "clusterIP",
    "selector",
];

/// Draws changes. Equal seeds draw equal changes of equal seeds.
pub(super) struct Changer(fastrand::Rng);

impl Changer {
    /// A changer that draws by this seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// One of several.
    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.0.usize(..of.len().max(1));
        of.get(at)
    }

    /// The first input with a few changes, some of them taken from the second.
    pub(super) fn change(&mut self, first: &[Value], second: &Arc<Vec<Value>>) -> Vec<Value> {
        let mut documents = first.to_vec();
        for _ in 0..self.0.usize(1..=CHANGES_MAX) {
            self.change_once(&mut documents, second);
        }
        documents.truncate(DOCUMENTS_MAX);
        documents
    }

    fn change_once(&mut self, documents: &mut Vec<Value>, second: &[Value]) {
        if documents.is_empty() {
            documents.extend(self.pick(second).cloned());
            return;
        }
        let at = self.0.usize(..documents.len());
        match self.0.u8(..20) {
            0 => {
                documents.remove(at);
            }
            // The same object again, in another namespace or under another name.
            1 => {
                let mut copy = documents[at].clone();
                let key = if self.0.bool() { "name" } else { "namespace" };
                let value = self.text();
                if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert(key.to_owned(), value);
                }
                documents.push(copy);
            }
            2 => documents.extend(self.pick(second).cloned()),
            3 => {
                let to = self.0.usize(..documents.len());
                documents.swap(at, to);
            }
            _ => self.change_value(&mut documents[at], second),
        }
    }

    fn change_value(&mut self, document: &mut Value, second: &[Value]) {
        let pointers = pointers(document);
        let Some(pointer) = self.pick(&pointers).cloned() else {
            return;
        };
        match self.0.u8(..10) {
            0 => {
                remove(document, &pointer);
            }
            // What another object has under the same key, or under any.
            1..=3 => {
                let key = key_of(&pointer);
                let of = self.pick(second).cloned().unwrap_or_default();
                let all = self::pointers(&of);
                let mut same: Vec<&String> = all.iter().filter(|it| key_of(it) == key).collect();
                if same.is_empty() {
                    same = all.iter().collect();
                }
                let value = self.pick(&same).and_then(|from| of.pointer(from)).cloned();
                if let (Some(value), Some(place)) = (value, document.pointer_mut(&pointer)) {
                    *place = value;
                }
            }
            // Two values of one object change places.
            4 => {
                let Some(other) = self.pick(&pointers).cloned() else {
                    return;
                };
                let one = document.pointer(&pointer).cloned().unwrap_or_default();
                let two = document.pointer(&other).cloned().unwrap_or_default();
                if let Some(place) = document.pointer_mut(&pointer) {
                    *place = two;
                }
                if let Some(place) = document.pointer_mut(&other) {
                    *place = one;
                }
            }
            5 => {
                if let Some(place) = document.pointer_mut(&pointer) {
                    *place = self.retyped(place);
                }
            }
            // An entry again, or a field more.
            6 | 7 => {
                let value = self.any();
                let key = self.pick(KEYS).copied().unwrap_or_default();
                match document.pointer_mut(&pointer) {
                    Some(Value::Array(list)) => {
                        let again = list.last().cloned().unwrap_or(value);
                        list.push(again);
                    }
                    Some(Value::Object(map)) => {
                        map.insert(key.to_owned(), value);
                    }
                    Some(place) => *place = value,
                    None => {}
                }
            }
            _ => {
                let value = self.any();
                if let Some(place) = document.pointer_mut(&pointer)
                    && !place.is_object()
                {
                    *place = value;
                }
            }
        }
    }

    fn text(&mut self) -> Value {
        Value::from(self.pick(TEXTS).copied().unwrap_or_default())
    }

    fn any(&mut self) -> Value {
        match self.0.u8(..10) {
            0 => Value::Null,
            1 => json!(self.0.bool()),
            2 => json!(self.0.u32(..4)),
            3 => json!([0, 1, 80, 8080, 9000, 65535, 65536, -1][self.0.usize(..8)]),
            4 => json!(self.0.i64(..)),
            5 => json!([0.5, 1e300, -0.0, 100.0, 0.00001][self.0.usize(..5)]),
            _ => self.text(),
        }
    }

    /// The value as another type: in a list, out of one, as text, as a number.
    fn retyped(&mut self, value: &Value) -> Value {
        match (self.0.u8(..4), value) {
            (0, value) => json!([value]),
            (1, Value::Array(list)) => list.first().cloned().unwrap_or_default(),
            (1, value) => json!({ "": value }),
            (2, value) => Value::from(value.to_string()),
            (_, Value::String(text)) => text.parse::<f64>().map_or(Value::Null, Value::from),
            (_, Value::Object(_)) => Value::Object(Map::new()),
            (_, _) => Value::Array(Vec::new()),
        }
    }
}

/// The last key of a pointer; an index counts as its list.
fn key_of(pointer: &str) -> &str {
    let mut parts = pointer.rsplit('/');
    parts
        .find(|part| part.parse::<usize>().is_err())
        .unwrap_or_default()
}

/// JSON pointers of all values below a document, outer ones first.
pub(super) fn pointers(document: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, depth: usize, found: &mut Vec<String>) {
        if depth > DEPTH_MAX {
            return;
        }
        let mut one = |key: &str, value: &Value| {
            let key = key.replace('~', "~0").replace('/', "~1");
            let pointer = format!("{at}/{key}");
            found.push(pointer.clone());
            walk(value, &pointer, depth + 1, found);
        };
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| one(key, value)),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .for_each(|(at, value)| one(&at.to_string(), value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    walk(document, "", 0, &mut found);
    found
}

/// Removes the value of a pointer from what holds it. Returns whether it was there.
pub(super) fn remove(document: &mut Value, pointer: &str) -> bool {
    let Some((holder, key)) = pointer.rsplit_once('/') else {
        return false;
    };
    match document.pointer_mut(holder) {
        Some(Value::Object(map)) => {
            let key = key.replace("~1", "/").replace("~0", "~");
            map.remove(&key).is_some()
        }
        Some(Value::Array(list)) => match key.parse::<usize>() {
            Ok(at) if at < list.len() => {
                list.remove(at);
                true
            }
            Ok(_) | Err(_) => false,
        },
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_changes_and_every_document_stays_a_document() {
        let first = vec![
            json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}),
        ];
        let second = Arc::new(vec![json!({"kind": "Pod", "spec": {"a/b": 1}})]);
        let (mut left, mut right) = (Changer::new(7), Changer::new(7));
        for _ in 0..2000 {
            let changed = left.change(&first, &second);
            assert_eq!(changed, right.change(&first, &second));
            assert!(changed.len() <= DOCUMENTS_MAX);
        }
    }

    #[test]
    fn a_value_is_removed_where_its_pointer_says() {
        let mut document = json!({"a": [{"b/c": 1}, 2]});
        assert_eq!(pointers(&document), ["/a", "/a/0", "/a/0/b~1c", "/a/1"]);
        assert!(remove(&mut document, "/a/0/b~1c"));
        assert!(remove(&mut document, "/a/1"));
        assert!(!remove(&mut document, "/a/1"));
        assert_eq!(document, json!({"a": [{}]}));
    }
}
