//! HTTP requests as applications make them: kept connections or one each,
//! HTTP/1.1 or HTTP/2, one after another or so many at once.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use super::outcome::{Outcome, Summary, now_ns};

/// What to ask, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct HttpClientArgs {
    /// http://HOST[:PORT]/PATH
    #[arg(long)]
    pub url: String,
    /// Requests to make, over all clients
    #[arg(short, long, default_value_t = 1)]
    pub number: u64,
    /// Clients at the same time
    #[arg(short, long, default_value_t = 1)]
    pub concurrency: u64,
    /// Let all clients start each of their requests together
    #[arg(long)]
    pub together: bool,
    /// Header as NAME: VALUE; again for more
    #[arg(short = 'H', long = "header")]
    pub headers: Vec<String>,
    /// Method
    #[arg(short = 'X', long, default_value = "GET")]
    pub method: String,
    /// Bytes of the request's body
    #[arg(long, default_value_t = 0)]
    pub body_bytes: usize,
    /// One connection for each request
    #[arg(long)]
    pub no_keepalive: bool,
    /// Talk HTTP/2 by prior knowledge
    #[arg(long)]
    pub http2: bool,
    /// Seconds that one request may take
    #[arg(long, default_value_t = 30.0)]
    pub timeout: f64,
    /// Print every outcome, not only the summary
    #[arg(long)]
    pub each: bool,
    /// What to count answers by
    #[arg(long, value_enum, default_value = "version")]
    pub by: CountBy,
    /// Print the whole answer of the last request
    #[arg(long)]
    pub show: bool,
}

/// What a summary counts answers by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CountBy {
    /// Service and version of who answered: `reviews v2`.
    Version,
    /// Pod of who answered.
    Pod,
    /// Service and version of everybody on the way, in the order of the calls.
    Tree,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host and port as the Host header has them.
    pub authority: String,
    /// Host to resolve.
    pub host: String,
    /// Port to dial.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// Reads `http://HOST[:PORT]/PATH`; IPv6 hosts stand in brackets.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: http::Uri = url.parse().with_context(|| format!("not a URL: {url}"))?;
        let authority = uri
            .authority()
            .with_context(|| format!("no host in {url}"))?;
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            path: uri
                .path_and_query()
                .map_or("/", |it| it.as_str())
                .to_owned(),
            authority: authority.as_str().to_owned(),
        })
    }

    /// All addresses of the host, in the resolver's order.
    pub fn resolve(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let addresses = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {}", self.host))?;
        Ok(addresses.collect())
    }

    /// Connects to the first address that answers, in order, as applications do.
    pub async fn connect(&self) -> anyhow::Result<TcpStream> {
        let mut last = None;
        for address in self.resolve()? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("no address"), anyhow::Error::from))
            .with_context(|| format!("connect to {}", self.authority))
    }
}

/// A connection that requests are sent on.
enum Connection {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(target: &Target, is_http2: bool) -> anyhow::Result<Self> {
        let io = TokioIo::new(target.connect().await?);
        if is_http2 {
            let (sender, driver) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::task::spawn(driver);
            Ok(Self::Http2(sender))
        } else {
            let (sender, driver) = hyper::client::conn::http1::handshake(io).await?;
            tokio::task::spawn(driver);
            Ok(Self::Http1(sender))
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Asks as the arguments say, and prints a [`Summary`].
pub fn run(args: &HttpClientArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (outcomes, last) = runtime.block_on(ask_all(args))?;
    let mut value = serde_json::to_value(Summary::of(outcomes, args.each))?;
    if let (true, Some(object)) = (args.show, value.as_object_mut()) {
        object.insert("answer".to_owned(), last);
    }
    println!("{value}");
    Ok(())
}

async fn ask_all(args: &HttpClientArgs) -> anyhow::Result<(Vec<Outcome>, Value)> {
    let target = Target::parse(&args.url)?;
    let clients = args.concurrency.max(1);
    let barrier = Rc::new(Barrier::new(usize::try_from(clients)?));
    let tasks = tokio::task::LocalSet::new();
    let mut handles = Vec::new();
    for client in 0..clients {
        let share = args.number / clients + u64::from(client < args.number % clients);
        let (args, target, barrier) = (args.clone(), target.clone(), Rc::clone(&barrier));
        handles.push(tasks.spawn_local(async move {
            let mut client = Client::new(args, target);
            let mut outcomes = Vec::new();
            for _ in 0..share {
                if client.args.together {
                    barrier.wait().await;
                }
                outcomes.push(client.ask().await);
            }
            (outcomes, client.last)
        }));
    }
    tasks
        .run_until(async {
            let (mut all, mut last) = (Vec::new(), Value::Null);
            for handle in handles {
                let (outcomes, answer) = handle.await?;
                all.extend(outcomes);
                last = answer;
            }
            Ok((all, last))
        })
        .await
}

/// One client with, at most, one connection.
pub(super) struct Client {
    args: HttpClientArgs,
    target: Target,
    kept: Option<Connection>,
    last: Value,
}

impl Client {
    /// A client without a connection yet.
    pub(super) fn new(args: HttpClientArgs, target: Target) -> Self {
        Self {
            args,
            target,
            kept: None,
            last: Value::Null,
        }
    }

    /// Makes one request. On an error the connection is not used again.
    pub(super) async fn ask(&mut self) -> Outcome {
        let mut outcome = Outcome {
            started_ns: now_ns(),
            ..Outcome::default()
        };
        let limit = Duration::from_secs_f64(self.args.timeout);
        match tokio::time::timeout(limit, self.exchange(&mut outcome)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                outcome.error = error_text(&error);
                self.kept = None;
            }
            Err(_) => {
                "no answer in time".clone_into(&mut outcome.error);
                self.kept = None;
            }
        }
        outcome.ended_ns = now_ns();
        outcome
    }

    async fn exchange(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let mut connection = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let opened = Connection::open(&self.target, self.args.http2).await?;
                outcome.connected_ns = now_ns();
                opened
            }
        };
        let response = connection.send(self.request()?).await?;
        outcome.status = response.status().as_u16();
        outcome.is_overloaded = response.headers().contains_key("x-envoy-overloaded");
        let headers = headers_json(response.headers());
        let is_closing = response
            .headers()
            .get(http::header::CONNECTION)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        let body = response.into_body().collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        outcome.answered_by = answered_by(&answer, self.args.by);
        if self.args.show {
            let text = String::from_utf8_lossy(&body).into_owned();
            self.last = serde_json::json!({ "headers": headers, "json": answer, "text": text });
        }
        if !self.args.no_keepalive && !is_closing {
            self.kept = Some(connection);
        }
        Ok(())
    }

    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut builder = Request::builder().method(self.args.method.as_str());
        if self.args.http2 {
            builder = builder.uri(format!(
                "http://{}{}",
                self.target.authority, self.target.path
            ));
        } else {
            builder = builder.uri(self.target.path.as_str());
        }
        let mut has_host = self.args.http2;
        for header in &self.args.headers {
            let (name, value) = header
                .split_once(':')
                .with_context(|| format!("not NAME: VALUE: {header}"))?;
            has_host |= name.eq_ignore_ascii_case("host");
            builder = builder.header(name.trim(), value.trim());
        }
        if !has_host {
            builder = builder.header(http::header::HOST, self.target.authority.as_str());
        }
        if self.args.no_keepalive && !self.args.http2 {
            builder = builder.header(http::header::CONNECTION, "close");
        }
        Ok(builder.body(Full::new(Bytes::from(vec![b'x'; self.args.body_bytes])))?)
    }
}

/// Who answered, as far as the answer is one of the lab's server.
fn answered_by(answer: &Value, by: CountBy) -> String {
    let (Some(service), Some(version)) = (answer["service"].as_str(), answer["version"].as_str())
    else {
        return String::new();
    };
    match by {
        CountBy::Version => format!("{service} {version}"),
        CountBy::Pod => answer["pod"].as_str().unwrap_or_default().to_owned(),
        CountBy::Tree => {
            let mut text = format!("{service} {version}");
            for call in answer["calls"].as_array().into_iter().flatten() {
                let below = answered_by(&call["answer"], by);
                let below = if below.is_empty() {
                    format!("no answer {}", call["to"])
                } else {
                    below
                };
                text = format!("{text}, {below}");
            }
            text
        }
    }
}

fn headers_json(headers: &http::HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

/// The innermost cause: the errno of a socket says more than hyper's words around it.
pub(super) fn error_text(error: &anyhow::Error) -> String {
    error.root_cause().to_string()
}

/// One GET on a connection of its own: status, and the answer as JSON or text.
pub(super) async fn request_value(
    target: &Target,
    headers: &[(String, String)],
) -> anyhow::Result<(u16, Value)> {
    let mut connection = Connection::open(target, false).await?;
    let mut builder =
        Request::get(target.path.as_str()).header(http::header::HOST, target.authority.as_str());
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    let response = connection.send(builder.body(Full::default())?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    let value = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
    Ok((status, value))
}

/// One GET from the calling thread's namespace: status and text.
pub fn get_once(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let target = Target::parse(&format!("http://{address}{path}"))?;
    runtime.block_on(async {
        let limit = Duration::from_secs(5);
        let (status, value) = tokio::time::timeout(limit, request_value(&target, &[])).await??;
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        Ok((status, text))
    })
}
