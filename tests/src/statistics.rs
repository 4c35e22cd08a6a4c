//! Whether observed counts agree with expected shares.

/// Deviations that a fair draw stays within: 4.5 standard deviations are left by
/// chance seven times in a million.
pub const SIGMAS: f64 = 4.5;

/// Whether `hits` of `trials` agree with the probability `share`, within [`SIGMAS`].
///
/// The deviation of a binomial draw is `sqrt(n p (1 - p))`; certain outcomes allow none.
pub fn agrees(hits: u64, trials: u64, share: f64) -> bool {
    let (hits, trials) = (count(hits), count(trials));
    let deviation = (trials * share * (1.0 - share)).sqrt();
    (hits - trials * share).abs() <= SIGMAS * deviation + 1e-9
}

/// Counts of tests are far below 2^32, where `f64` is exact.
fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_agree_within_four_and_a_half_deviations() {
        for (hits, trials, share, expected) in [
            (100, 1000, 0.1, true),
            (142, 1000, 0.1, true),  // 4.4 deviations
            (144, 1000, 0.1, false), // 4.6 deviations
            (0, 1000, 0.0, true),
            (1, 1000, 0.0, false), // what cannot happen must not happen once
            (999, 1000, 1.0, false),
        ] {
            assert_eq!(
                agrees(hits, trials, share),
                expected,
                "{hits} of {trials} at {share}"
            );
        }
    }
}
