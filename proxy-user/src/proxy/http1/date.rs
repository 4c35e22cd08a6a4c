//! The `date` header, made once a second per thread (RFC 9110 section 5.6.7).

use std::cell::RefCell;
use std::time::SystemTime;

use crate::telemetry::calendar::HttpDate;

thread_local! {
    static CACHE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Writes the date of `now`.
pub(super) fn write_date(out: &mut Vec<u8>, now: SystemTime) {
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    CACHE.with_borrow_mut(|(cached, text)| {
        if *cached != second {
            *cached = second;
            *text = HttpDate(second).to_string();
        }
        out.extend_from_slice(text.as_bytes());
    });
}
