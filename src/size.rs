//! Sizes as people write them. Pure.

/// Reads a size: `K M G T` and `KiB...` by 1024, `KB...` by 1000, a bare number in bytes; fractions are allowed.
///
/// # Errors
/// What is no size, told for people.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write 500G, 500GiB or 500GB");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start();
    let letter = unit.chars().next().map(|c| c.to_ascii_uppercase());
    let power = match letter {
        None | Some('B') => 0,
        Some('K') => 1,
        Some('M') => 2,
        Some('G') => 3,
        Some('T') => 4,
        Some('P') => 5,
        Some(_) => return Err(wrong()),
    };
    let base: u64 = match (power, unit.get(1..).unwrap_or("").to_ascii_lowercase().as_str()) {
        (0, "") => 1024,
        (1.., "" | "ib") => 1024,
        (1.., "b") => 1000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || number.is_empty() {
        return Err(wrong());
    }
    let unit = u128::from(base.pow(power));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    u64::try_from(u128::from(whole) * unit + part * unit / scale).map_err(|_| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_mean_them() {
        for (text, bytes) in [
            ("0", 0),
            ("5", 5),
            ("5B", 5),
            ("1K", 1024),
            ("1k", 1024),
            ("1.5M", 1_572_864),
            ("1MiB", 1_048_576),
            ("1MB", 1_000_000),
            ("2 TB", 2_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1X", "1KiBs", "1.2.3M", "99999999P", "1Bi", "é", "1é"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
