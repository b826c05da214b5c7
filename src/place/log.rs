//! A binary logarithm in integers, so that placement is the same on every platform. Pure.

/// Fractional bits of a logarithm.
pub(super) const FRACTION: u32 = 48;

const STEPS: usize = 1024;

/// log2(1 + i/1024) for every i, with [`FRACTION`] fractional bits.
static TABLE: [u64; STEPS + 1] = table();

const fn table() -> [u64; STEPS + 1] {
    let mut table = [0; STEPS + 1];
    let mut at = 0;
    while at < STEPS {
        table[at] = log2_of_mantissa(((STEPS + at) as u64) << 53);
        at += 1;
    }
    table[STEPS] = 1 << FRACTION;
    table
}

/// Squares the mantissa once for every bit: the square is at least 2 exactly when that bit of the logarithm is set.
const fn log2_of_mantissa(mantissa: u64) -> u64 {
    let mut mantissa = mantissa as u128;
    let mut log = 0;
    let mut bit = 0;
    while bit < FRACTION {
        mantissa = (mantissa * mantissa) >> 63;
        log <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            log |= 1;
        }
        bit += 1;
    }
    log
}

/// `-log2(value / 2^64)` with [`FRACTION`] fractional bits: 0 < result <= 64. Interpolated linearly between 1,024
/// points of an octave: off by at most 2e-7, never increasing in `value`.
pub(super) fn neg_log2(value: u64) -> u64 {
    let value = value.max(1);
    let zeros = value.leading_zeros();
    let mantissa = value << zeros;
    let at = (mantissa >> 53) as usize & (STEPS - 1);
    let rest = (mantissa >> 29) & 0xff_ffff;
    let log = TABLE[at] + (((TABLE[at + 1] - TABLE[at]) * rest) >> 24);
    ((u64::from(zeros) + 1) << FRACTION) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_logarithm_and_never_increases() {
        let scale = 2f64.powi(i32::try_from(FRACTION).unwrap());
        let mut value = 1u64;
        let mut last = u64::MAX;
        while value < u64::MAX / 2 {
            let found = neg_log2(value);
            let exact = 64.0 - (value as f64).log2();
            assert!((found as f64 / scale - exact).abs() < 3e-7, "{value}: {found} for {exact}");
            assert!(found <= last);
            last = found;
            value += value / 777 + 2;
        }
        assert!(neg_log2(u64::MAX) > 0);
        assert_eq!(neg_log2(0), 64 << FRACTION);
    }
}
