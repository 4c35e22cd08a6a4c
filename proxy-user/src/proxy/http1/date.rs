//! The `date` header, made once a second per thread (RFC 9110 section 5.6.7).

use std::cell::RefCell;

use rustix::time::{ClockId, clock_gettime};

use crate::telemetry::calendar::HttpDate;

thread_local! {
    static CACHE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Writes the date of now, by the clock that costs nothing to read.
pub(super) fn write_date(out: &mut Vec<u8>) {
    let second = u64::try_from(clock_gettime(ClockId::RealtimeCoarse).tv_sec).unwrap_or(0);
    CACHE.with_borrow_mut(|(cached, text)| {
        if *cached != second {
            *cached = second;
            *text = HttpDate(second).to_string();
        }
        out.extend_from_slice(text.as_bytes());
    });
}
