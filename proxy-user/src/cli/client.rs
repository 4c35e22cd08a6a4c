//! Asks the daemon.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::settings::AdminAddress;

/// How long the daemon may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Largest answer: a config dump of a very large mesh.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// A daemon's admin API.
pub(super) struct Client<'a> {
    address: &'a AdminAddress,
}

impl<'a> Client<'a> {
    /// The daemon at `address`; nothing is asked yet.
    pub(super) fn new(address: &'a AdminAddress) -> Self {
        Self { address }
    }

    /// Asks for a view.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// Hands over a question.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.ask(Method::POST, path, serde_json::to_vec(question)?.into())
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let asked = async {
            let limited = tokio::time::timeout(ANSWER_TIME_MAX, self.ask_once(method, path, body));
            match limited.await {
                Ok(answer) => answer,
                Err(_) => bail!(
                    "the daemon at {} did not answer within {} s",
                    self.address,
                    ANSWER_TIME_MAX.as_secs()
                ),
            }
        };
        let body = runtime.block_on(asked)?;
        serde_json::from_slice(&body).with_context(|| {
            format!(
                "the daemon at {} answered something else; are daemon and CLI of one version?",
                self.address
            )
        })
    }

    async fn ask_once(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        match self.address {
            AdminAddress::Unix(socket) => {
                let stream = UnixStream::connect(socket).await;
                let stream = stream.map_err(|error| self.unreachable(&error))?;
                self.exchange(stream, method, path, body).await
            }
            AdminAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await;
                let stream = stream.map_err(|error| self.unreachable(&error))?;
                self.exchange(stream, method, path, body).await
            }
        }
    }

    fn unreachable(&self, error: &io::Error) -> anyhow::Error {
        let way_out = if error.kind() == io::ErrorKind::PermissionDenied {
            "run this as root or as the daemon's user"
        } else {
            "start it with `mizzen run --config DIR`, or say where it listens with --admin or \
             MIZZEN_ADMIN"
        };
        anyhow::anyhow!("no daemon answers at {}: {error}; {way_out}", self.address)
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Bytes> {
        let refused = || {
            format!(
                "the daemon at {} closed the connection; only root and the daemon's user are \
                 served",
                self.address
            )
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "mizzen")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await.with_context(refused)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?
            .to_bytes();
        connection.abort();
        if !status.is_success() {
            bail!("{}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    }
}
