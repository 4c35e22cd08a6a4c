//! Load at a steady rate until SIGTERM, then the list of what happened.

use std::time::Duration;

use super::http_client::{Client, HttpClientArgs, Target};
use super::outcome::Summary;

/// Load as [`HttpClientArgs`] say, without end.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// What to ask; `number` is not looked at
    #[command(flatten)]
    pub request: HttpClientArgs,
    /// Requests started in a second, over all clients
    #[arg(long, default_value_t = 200)]
    pub rate: u64,
}

/// Asks until SIGTERM, then prints a [`Summary`].
pub fn run(args: LoadArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let is_kept = args.request.each;
    let tasks = tokio::task::LocalSet::new();
    let outcomes = tasks.block_on(&runtime, load(args))?;
    println!("{}", serde_json::to_value(Summary::of(outcomes, is_kept))?);
    Ok(())
}

async fn load(args: LoadArgs) -> anyhow::Result<Vec<super::outcome::Outcome>> {
    let target = Target::parse(&args.request.url)?;
    let clients = args.request.concurrency.max(1);
    let pause = Duration::from_secs(1) * u32::try_from(clients)? / u32::try_from(args.rate.max(1))?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut handles = Vec::new();
    for index in 0..clients {
        let mut client = Client::new(args.request.clone(), target.clone());
        let stopped = stopped.clone();
        handles.push(tokio::task::spawn_local(async move {
            // Spread the clients over one pause, so that the rate is steady.
            tokio::time::sleep(pause * u32::try_from(index)? / u32::try_from(clients)?).await;
            let mut ticks = tokio::time::interval(pause);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut outcomes = Vec::new();
            while !*stopped.borrow() {
                ticks.tick().await;
                outcomes.push(client.ask().await);
            }
            anyhow::Ok(outcomes)
        }));
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    terminate.recv().await;
    stop.send_replace(true);
    let mut all = Vec::new();
    for handle in handles {
        all.extend(handle.await??);
    }
    all.sort_by_key(|outcome| outcome.started_ns);
    Ok(all)
}
