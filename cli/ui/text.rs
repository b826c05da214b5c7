//! Text for people: names made harmless, sizes, counts, times. Pure.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A name with everything that would move the cursor, hide or reorder text written out. Backslashes double only then.
pub fn escaped(name: &str) -> Cow<'_, str> {
    if name.chars().any(is_unsafe) { Cow::Owned(escape(name, false)) } else { Cow::Borrowed(name) }
}

/// A local path with the same written out.
pub fn shown(path: &std::path::Path) -> String {
    escaped(&path.display().to_string()).into_owned()
}

/// The same for a message of ours, which may have several lines.
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    if text.chars().any(|c| c != '\n' && is_unsafe(c)) { Cow::Owned(escape(text, true)) } else { Cow::Borrowed(text) }
}

fn escape(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' if lines => out.push(c),
            '\\' if !lines => out.push_str("\\\\"),
            c if is_unsafe(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Control characters, and those that reorder or hide text (Unicode bidirectional controls, line separators).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// `41.3 MiB`.
pub fn size(bytes: u64) -> String {
    let unit = unit_of(bytes);
    format!("{} {}", in_unit(bytes, unit), UNITS[unit])
}

/// Which unit fits a number of bytes; for several numbers in one unit.
pub fn unit_of(bytes: u64) -> usize {
    let mut unit = 0;
    // What would round to 1024.0 is shown in the next unit.
    while unit + 1 < UNITS.len() && scaled(bytes, unit) >= if unit == 0 { 1024.0 } else { 1023.95 } {
        unit += 1;
    }
    unit
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn scaled(bytes: u64, unit: usize) -> f64 {
    bytes as f64 / 1024f64.powi(i32::try_from(unit).unwrap_or(0))
}

/// `41.3`, in that unit.
pub fn in_unit(bytes: u64, unit: usize) -> String {
    if unit == 0 { bytes.to_string() } else { format!("{:.1}", scaled(bytes, unit)) }
}

/// `3.1 of 5.0 GiB`.
pub fn size_of(bytes: u64, all: u64) -> String {
    let unit = unit_of(all);
    format!("{} of {} {}", in_unit(bytes, unit), in_unit(all, unit), UNITS[unit])
}

/// `61 %`; what is less than all is never 100 %.
pub fn percent_of(bytes: u64, all: u64) -> String {
    let percent = u128::from(bytes) * 100 / u128::from(all.max(1));
    format!("{percent} %")
}

/// `1,204`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`, `2 copies`.
pub fn plural(number: u64, one: &str) -> String {
    let many = match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if one.ends_with('s') => format!("{one}es"),
        _ => format!("{one}s"),
    };
    format!("{} {}", count(number), if number == 1 { one } else { &many })
}

/// Parts of a line, two spaces between them, at most so many columns wide: the parts of the highest rank are left out
/// first; those of rank 0 stay, and the first of them is cut.
pub fn fitted(mut parts: Vec<(u8, String)>, columns: usize) -> String {
    let wide = |parts: &[(u8, String)]| parts.iter().map(|(_, part)| part.width() + 2).sum::<usize>().saturating_sub(2);
    while wide(&parts) > columns {
        let least = parts.iter().map(|(rank, _)| *rank).max().unwrap_or(0);
        if least == 0 {
            break;
        }
        parts.retain(|(rank, _)| *rank != least);
    }
    let over = wide(&parts).saturating_sub(columns);
    if let Some((_, first)) = parts.first_mut().filter(|_| over > 0) {
        *first = cut(first, first.width().saturating_sub(over).max(4));
    }
    parts.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join("  ")
}

/// A text of at most so many columns, with `…` for what is left out.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let (mut out, mut left) = (String::new(), columns.saturating_sub(1));
    for c in text.chars() {
        let Some(rest) = left.checked_sub(c.width().unwrap_or(0)) else { break };
        out.push(c);
        left = rest;
    }
    out + "…"
}

/// `2026-11-20 14:03`, in this time zone.
pub fn local_time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// `3 minutes ago`, seen from `now`.
pub fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.as_second().saturating_sub(time.as_second())).unwrap_or(0);
    match seconds {
        0..=1 => "just now".into(),
        2..60 => format!("{seconds} seconds ago"),
        60..3600 => format!("{} ago", plural(seconds / 60, "minute")),
        3600..172_800 => format!("{} ago", plural(seconds / 3600, "hour")),
        _ => format!("{} ago", plural(seconds / 86_400, "day")),
    }
}

/// The candidate nearest to what was typed, if one is near: a third of its letters wrong at most, but one may always be.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (typed.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(typed, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(escaped("a b\\ü"), "a b\\ü");
        assert_eq!(escaped("a\nb\u{1b}[2J\\"), "a\\nb\\u{1b}[2J\\\\");
        assert_eq!(escaped("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escaped_lines("a\nb\r"), "a\nb\\r");
    }

    #[test]
    fn sizes_are_rounded_to_one_decimal() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (43_306_189, "41.3 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_and_ages() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "copy"), "1 copy");
        assert_eq!(plural(3, "copy"), "3 copies");
        assert_eq!(plural(2, "process"), "2 processes");
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| age(Timestamp::from_second(1_000_000 - seconds).unwrap(), now);
        assert_eq!(ago(-5), "just now");
        assert_eq!(ago(59), "59 seconds ago");
        assert_eq!(ago(60), "1 minute ago");
        assert_eq!(ago(7200), "2 hours ago");
        assert_eq!(ago(200_000), "2 days ago");
        assert_eq!(local_time(now, &TimeZone::UTC), "1970-01-12 13:46");
        assert_eq!(nearest("heatlh", ["health", "gc"]), Some("health"));
        assert_eq!(nearest("xyz", ["health", "gc"]), None);
    }
}
