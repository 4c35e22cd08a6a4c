//! What runs inside the lab's pods: servers, clients, and the way into a pod.

use clap::{Parser, Subcommand};
use mizzen_tests::workload::enter::{EnterArgs, enter, pause};
use mizzen_tests::workload::http_client::{self, HttpClientArgs};
use mizzen_tests::workload::http_server::{self, HttpServerArgs};
use mizzen_tests::workload::load::{self, LoadArgs};
use mizzen_tests::workload::tcp_client::{self, TcpClientArgs};
use mizzen_tests::workload::tcp_server::{self, TcpServerArgs};

#[derive(Parser)]
#[command(about = "Workloads of Mizzen's lab; each prints what it saw as JSON")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Join a pod's cgroup and namespaces, then become a program
    Enter(EnterArgs),
    /// Hold the namespaces of a pod
    Pause,
    /// Serve HTTP/1.1 and HTTP/2, answering who is asked and who asks
    Http(HttpServerArgs),
    /// Serve TCP, echoing lines behind a prefix
    TcpEcho(TcpServerArgs),
    /// Make HTTP requests
    HttpClient(HttpClientArgs),
    /// Make HTTP requests at a steady rate until SIGTERM
    Load(LoadArgs),
    /// Make TCP connections
    TcpClient(TcpClientArgs),
    /// Send one datagram
    Udp {
        /// HOST:PORT
        #[arg(long)]
        to: String,
    },
    /// Send one ICMP echo request
    Ping {
        /// IPv4 address
        #[arg(long)]
        to: std::net::Ipv4Addr,
    },
}

fn main() -> anyhow::Result<()> {
    // Before anything else, so that connect() is this program's first act.
    let mut args = std::env::args().skip(1);
    if let (Some("first-connect"), Some(to)) = (args.next().as_deref(), args.next()) {
        return tcp_client::first_connect(&to, &args.next().unwrap_or_default());
    }
    match Cli::parse().task {
        Task::Enter(args) => enter(&args),
        Task::Pause => pause(),
        Task::Http(args) => http_server::serve(args),
        Task::TcpEcho(args) => tcp_server::serve(args),
        Task::HttpClient(args) => http_client::run(&args),
        Task::Load(args) => load::run(args),
        Task::TcpClient(args) => tcp_client::run(&args),
        Task::Udp { to } => tcp_client::udp(&to),
        Task::Ping { to } => tcp_client::ping(to),
    }
}
