//! Times as text.

use std::fmt::{self, Display};
use std::time::SystemTime;

/// A time in UTC, ISO 8601 with milliseconds: `2006-01-02T15:04:05.000Z`, as Envoy's
/// `%START_TIME%` without a format.
#[derive(Debug, Clone, Copy)]
pub struct Iso8601(pub SystemTime);

impl Display for Iso8601 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self
            .0
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil_from_days(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

/// A count of seconds since 1970-01-01 as HTTP's `date` has it: `Sun, 06 Nov 1994 08:49:37
/// GMT` (RFC 9110 section 5.6.7).
#[derive(Debug, Clone, Copy)]
pub struct HttpDate(pub u64);

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

impl Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        let (year, month, day) = civil_from_days(days);
        // 1970-01-01 was a Thursday.
        let weekday = WEEKDAYS[(days % 7) as usize];
        let month = usize::try_from(month - 1)
            .ok()
            .and_then(|at| MONTHS.get(at));
        write!(
            f,
            "{weekday}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
            month.unwrap_or(&"Jan"),
            second / 3_600,
            second / 60 % 60,
            second % 60
        )
    }
}

/// Year, month and day of a count of days since 1970-01-01, in the Gregorian
/// calendar, counted in years that begin in March (Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let era = days / 146_097; // 400 years
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_those_of_the_document() {
        for (second, expected) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
        ] {
            assert_eq!(HttpDate(second).to_string(), expected);
        }
    }

    #[test]
    fn days_are_gregorian() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),      // 1970 has no 29 February
            (11_016, (2000, 2, 29)), // 2000 has
            (19_782, (2024, 2, 29)),
            (47_541, (2100, 3, 1)), // 2100 has not
        ] {
            assert_eq!(civil_from_days(days), expected, "day {days}");
        }
    }
}
