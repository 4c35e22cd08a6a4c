//! The steps that shape HTTP requests.

use anyhow::Context as _;

use super::{Report, Stage, wait_in_force};
use crate::statistics::agrees;
use crate::workload::outcome::Summary;

const REVIEWS: &str = "http://reviews:9080/reviews/0";
const PRODUCTPAGE: &str = "http://productpage:9080/productpage";

/// Counts in words, the most frequent first.
fn in_words(summary: &Summary) -> String {
    let mut counts: Vec<(&String, &u64)> = summary.answered_by.iter().collect();
    counts.sort_by(|left, right| right.1.cmp(left.1));
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{count} x {name}"))
        .collect();
    parts.extend(
        summary
            .statuses
            .iter()
            .filter(|(status, _)| *status != "200")
            .map(|(status, count)| format!("{count} x status {status}")),
    );
    parts.extend(
        summary
            .errors
            .iter()
            .map(|(error, count)| format!("{count} x {error}")),
    );
    parts.join("; ")
}

/// Step 1.
pub(super) fn everything_to_v1(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.apply("routes", "1-all-v1.yaml")?;
    let ask = |number: &str| stage.client.ask(&["--url", REVIEWS, "-n", number]);
    wait_in_force("1-all-v1.yaml", || Ok(ask("30")?.from("reviews v1") == 30))?;
    let tree = stage
        .client
        .ask(&["--url", PRODUCTPAGE, "-n", "60", "--by", "tree"])?;
    let expected = "productpage v1, details v1, reviews v1";
    report.observe(&in_words(&tree), tree.from(expected) == 60);
    let ratings = stage
        .client
        .ask(&["--url", "http://ratings:9080/ratings/0", "-n", "60"])?;
    report.observe(&in_words(&ratings), ratings.from("ratings v1") == 60);
    Ok(())
}

/// Step 2.
pub(super) fn jason_to_v2(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.apply("routes", "2-jason.yaml")?;
    let ask = |extra: &[&str]| {
        let mut args = vec!["--url", PRODUCTPAGE, "-n", "60", "--by", "tree"];
        args.extend(extra);
        stage.client.ask(&args)
    };
    let everybody = "productpage v1, details v1, reviews v3, ratings v1";
    wait_in_force("2-jason.yaml", || Ok(ask(&[])?.from(everybody) == 60))?;
    for (who, header, version) in [
        ("jason", Some("end-user: jason"), "v2"),
        ("tanja", Some("end-user: tanja"), "v3"),
        ("nobody", None, "v3"),
    ] {
        let extra: Vec<&str> = header.map(|header| vec!["-H", header]).unwrap_or_default();
        let seen = ask(&extra)?;
        let expected = format!("productpage v1, details v1, reviews {version}, ratings v1");
        report.observe(
            &format!("{who}: {}", in_words(&seen)),
            seen.from(&expected) == 60,
        );
    }
    Ok(())
}

/// Step 3.
pub(super) fn weights(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let ask = |number: &str| stage.client.ask(&["--url", REVIEWS, "-n", number]);
    for (document, share_of_v2, is_in_force) in [
        // Each probe tells the new weights from those before, and is no part of the trial.
        (
            "3-weights-90-10.yaml",
            0.1,
            (|v2| v2 <= 20) as fn(u64) -> bool,
        ),
        ("3-weights-50-50.yaml", 0.5, |v2| v2 >= 30),
        ("3-weights-0-100.yaml", 1.0, |v2| v2 == 100),
    ] {
        stage.apply("routes", document)?;
        wait_in_force(document, || {
            let probe = ask("100")?;
            let v2 = probe.from("reviews v2");
            Ok(v2 + probe.from("reviews v1") == 100 && is_in_force(v2))
        })?;
        let seen = ask("1000")?;
        let v2 = seen.from("reviews v2");
        let all = v2 + seen.from("reviews v1");
        let is_right = all == 1000 && agrees(v2, 1000, share_of_v2);
        report.observe(&format!("{document}: {}", in_words(&seen)), is_right);
    }
    Ok(())
}

/// Step 5.
pub(super) fn timeout(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.apply("routes", "5-timeout.yaml")?;
    let slow = format!("{REVIEWS}?delay_ms=3000");
    let quick = format!("{REVIEWS}?delay_ms=50");
    wait_in_force("5-timeout.yaml", || {
        Ok(stage.client.ask(&["--url", &slow])?.status(504) == 1)
    })?;
    let seen = stage
        .client
        .ask(&["--url", &slow, "-n", "6", "-c", "3", "--each"])?;
    let longest = seen
        .outcomes
        .iter()
        .map(|it| it.ended_ns - it.started_ns)
        .max()
        .unwrap_or(0);
    report.observe(
        &format!(
            "3 s of work: {}, the longest after {} ms",
            in_words(&seen),
            longest / 1_000_000
        ),
        // The server would take 3 s: anything shorter was cut. Less than 0.5 s is too early.
        seen.status(504) == 6
            && seen
                .outcomes
                .iter()
                .all(|it| (500_000_000..2_900_000_000).contains(&(it.ended_ns - it.started_ns))),
    );
    let seen = stage.client.ask(&["--url", &quick, "-n", "20"])?;
    report.observe(
        &format!("50 ms of work: {}", in_words(&seen)),
        seen.from("reviews v1") == 20,
    );
    Ok(())
}

/// Rounds of requests that start together.
const ROUNDS: usize = 20;

/// Step 6.
pub(super) fn circuit_breaking(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let ask = |clients: usize| {
        let number = (clients * ROUNDS).to_string();
        let clients = clients.to_string();
        let url = "http://slow:8000/";
        stage.client.ask(&[
            "--url",
            url,
            "-n",
            &number,
            "-c",
            &clients,
            "--together",
            "--each",
        ])
    };
    let before = ask(3)?;
    report.observe(
        &format!("without the rule, 3 at once: {}", in_words(&before)),
        before.overloaded == 0 && before.status(200) == before.total,
    );
    stage.apply("slow", "6-circuit-breaking.yaml")?;
    wait_in_force("6-circuit-breaking.yaml", || Ok(ask(3)?.overloaded > 0))?;
    let seen = ask(3)?;
    let mut overflowed = 0;
    let mut served = 0;
    for round in 0..ROUNDS {
        // Outcomes stand client by client, each client's in order.
        let of_round = || seen.outcomes.iter().skip(round).step_by(ROUNDS);
        overflowed += usize::from(of_round().any(|it| it.status == 503 && it.is_overloaded));
        served += usize::from(of_round().any(|it| it.status == 200));
    }
    report.observe(
        &format!(
            "3 at once, {ROUNDS} times: {}; overflow in {overflowed} rounds, an answer in {served}",
            in_words(&seen)
        ),
        overflowed == ROUNDS
            && served == ROUNDS
            && seen.overloaded + seen.status(200) == seen.total,
    );
    let seen = ask(2)?;
    report.observe(
        &format!("2 at once, {ROUNDS} times: {}", in_words(&seen)),
        seen.status(200) == seen.total,
    );
    stage.withdraw("slow")
}

/// Step 7.
pub(super) fn subset_policies(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.apply("my-svc", "7-subset-policies.yaml")?;
    let ask = |version: &str, number: &str| {
        let header = format!("x-version: {version}");
        let url = "http://my-svc:8080/";
        stage.client.ask(&[
            "--url", url, "-n", number, "-H", &header, "--by", "pod", "--each",
        ])
    };
    wait_in_force("7-subset-policies.yaml", || {
        Ok(ask("v2", "30")?
            .answered_by
            .keys()
            .all(|pod| pod.starts_with("my-svc-v2")))
    })?;
    for (version, is_in_turn) in [("v2", true), ("v3", false)] {
        let seen = ask(version, "900")?;
        let pods: Vec<&str> = seen
            .outcomes
            .iter()
            .map(|it| it.answered_by.as_str())
            .collect();
        let repeats = pods
            .windows(2)
            .filter(|pair| pair.first() == pair.last())
            .count();
        let repeats = u64::try_from(repeats).context("too many repeats")?;
        let is_from_subset = seen.answered_by.len() == 3
            && seen
                .answered_by
                .keys()
                .all(|pod| pod.starts_with(&format!("my-svc-{version}")));
        let is_spread = if is_in_turn {
            // In turn: no pod twice running, and even counts.
            repeats == 0 && seen.answered_by.values().all(|&count| count == 300)
        } else {
            // At random: the same pod again in one of three draws.
            agrees(repeats, 899, 1.0 / 3.0)
                && seen
                    .answered_by
                    .values()
                    .all(|&count| agrees(count, 900, 1.0 / 3.0))
        };
        let counts: Vec<String> = seen.answered_by.values().map(u64::to_string).collect();
        report.observe(
            &format!(
                "subset {version}: 900 requests over 3 pods as {}, {repeats} times the same pod twice running",
                counts.join("/")
            ),
            is_from_subset && is_spread,
        );
    }
    let rest = stage
        .client
        .ask(&["--url", "http://my-svc:8080/", "-n", "60"])?;
    report.observe(
        &format!("no header: {}", in_words(&rest)),
        rest.from("my-svc v1") == 60,
    );
    Ok(())
}
