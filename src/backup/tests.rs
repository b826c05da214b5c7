//! The form of a backup: it comes back whole, or not at all.

use proptest::prelude::*;

use super::sealed::{PREAMBLE, SEGMENT};
use super::*;

/// Cheap, as nothing is kept under it.
const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
/// Bytes of a segment in the file.
const SEALED: usize = SEGMENT + 16;

fn passphrase() -> Passphrase {
    Passphrase::new("correct horse\n").unwrap()
}

fn facts() -> Facts {
    Facts {
        made: Timestamp::UNIX_EPOCH,
        bytenode: "0.1.0".into(),
        pool: PoolId::from_bytes([7; 16]),
        catalog: 2,
        files: 3,
        chunks: 4,
    }
}

/// A backup whose catalog has these bytes.
fn backup(catalog: &[u8]) -> Vec<u8> {
    let (mut master, mut signing, mut nodes, mut catalog_input) = (&b"master"[..], &b""[..], &b"{}"[..], catalog);
    let mut parts = [
        Source { part: Part::Master, bytes: 6, input: &mut master },
        Source { part: Part::Signing, bytes: 0, input: &mut signing },
        Source { part: Part::Nodes, bytes: 2, input: &mut nodes },
        Source { part: Part::Catalog, bytes: catalog.len() as u64, input: &mut catalog_input },
    ];
    let mut out = Vec::new();
    write_at(CHEAP, &mut out, &passphrase(), facts(), &mut parts, &Seam::real()).unwrap();
    out
}

fn restored(file: &[u8]) -> Result<Vec<(Part, Vec<u8>)>, BackupError> {
    let parts = std::cell::RefCell::new(Vec::<(Part, Vec<u8>)>::new());
    struct Into<'a>(&'a std::cell::RefCell<Vec<(Part, Vec<u8>)>>);
    impl Write for Into<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().last_mut().unwrap().1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let backup = Backup::open(file, &passphrase())?;
    assert_eq!(backup.facts(), &facts());
    let told = backup.extract(|part| {
        parts.borrow_mut().push((part, Vec::new()));
        Ok(Into(&parts))
    })?;
    assert_eq!(told, facts());
    Ok(parts.into_inner())
}

/// Bytes that fill this many segments to the last byte.
fn catalog_of(segments: usize) -> Vec<u8> {
    let around = backup(b"").len() - PREAMBLE - 16;
    // The length of the catalog is told in decimal, so the head grows with it.
    let digits = (segments * SEGMENT).to_string().len() - 1;
    vec![9; segments * SEGMENT - around - digits]
}

#[test]
fn it_comes_back_whole() {
    for catalog in [vec![], vec![1], catalog_of(1), catalog_of(2), vec![5; 3 * SEGMENT + 1]] {
        let file = backup(&catalog);
        let parts = restored(&file).unwrap();
        assert!(
            parts
                == [
                    (Part::Master, b"master".to_vec()),
                    (Part::Signing, vec![]),
                    (Part::Nodes, b"{}".to_vec()),
                    (Part::Catalog, catalog)
                ],
            "{}",
            file.len()
        );
        assert_eq!(Backup::open(&file[..], &passphrase()).unwrap().verify().unwrap(), facts());
    }
    // The lengths that matter are met.
    assert_eq!(backup(&catalog_of(2)).len(), PREAMBLE + 2 * SEALED);
}

#[test]
fn a_wrong_passphrase_is_told_from_damage() {
    let file = backup(b"x");
    for wrong in ["correct horsf", "correct horse ", "Correct horse"] {
        let opened = Backup::open(&file[..], &Passphrase::new(wrong).unwrap());
        assert!(matches!(opened, Err(BackupError::WrongPassphrase)), "{wrong}");
    }
    assert!(matches!(restored(b"no backup"), Err(BackupError::Foreign)));
    assert!(matches!(restored(b""), Err(BackupError::Foreign)));
}

/// What a newer build writes is no damage.
#[test]
fn a_newer_form_is_told_from_damage() {
    let mut file = backup(b"x");
    file[19] = 2;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &file[..96]);
    file[96..128].copy_from_slice(hash.as_ref());
    assert!(matches!(restored(&file), Err(BackupError::Newer { found: 2, known: 1 })));
}

/// A file cannot make the machine that opens it work or allocate without bound.
#[test]
fn what_a_file_asks_for_is_bounded() {
    for at in [20, 24, 28] {
        for value in [u32::MAX, 0] {
            let mut file = backup(b"x");
            file[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &file[..96]);
            file[96..128].copy_from_slice(hash.as_ref());
            assert!(matches!(restored(&file), Err(BackupError::Damaged(_))), "{at} {value}");
        }
    }
}

fn is_refused(file: &[u8]) -> bool {
    matches!(restored(file), Err(BackupError::Damaged(_) | BackupError::Foreign))
}

#[test]
fn cut_at_every_boundary_it_is_refused() {
    for catalog in [catalog_of(3), vec![3; 2 * SEGMENT + 100]] {
        let file = backup(&catalog);
        let mut ends: Vec<usize> = (0..=3).map(|segments| PREAMBLE + segments * SEALED).collect();
        ends.extend([0, 1, 15, 16, 95, 96, PREAMBLE - 1]);
        for end in ends.iter().flat_map(|end| [end.saturating_sub(1), *end, end + 1, end + 16]) {
            assert!(end >= file.len() || is_refused(&file[..end]), "{end} of {}", file.len());
        }
    }
}

#[test]
fn reordered_repeated_or_lengthened_it_is_refused() {
    let file = backup(&catalog_of(3));
    let (front, segments) = file.split_at(PREAMBLE);
    let segment = |index: usize| &segments[index * SEALED..(index + 1) * SEALED];
    let made = |order: &[usize]| order.iter().fold(front.to_vec(), |file, index| [&file, segment(*index)].concat());
    assert!(!is_refused(&made(&[0, 1, 2])));
    for order in [&[1, 0, 2][..], &[0, 2, 1], &[0, 1, 1, 2], &[0, 1, 2, 2], &[0, 2], &[0, 0, 1, 2]] {
        assert!(is_refused(&made(order)), "{order:?}");
    }
    assert!(is_refused(&[&file[..], b"x"].concat()));
    // An empty segment behind a last one that is full.
    assert!(is_refused(&[&file[..], &[0; 16]].concat()));
    // Segments of one file behind the preamble of another.
    let other = backup(&catalog_of(3));
    assert!(is_refused(&[&other[..PREAMBLE], segments].concat()));
}

#[test]
fn every_byte_of_a_small_one_matters() {
    let file = backup(b"x");
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(is_refused(&changed), "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_catalog_comes_back_and_any_change_shows(
        length in 0..4 * SEGMENT, at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>(),
    ) {
        let catalog = vec![0xa5; length];
        let file = backup(&catalog);
        prop_assert_eq!(&restored(&file).unwrap()[3].1, &catalog);
        let mut changed = file.clone();
        changed[at.index(file.len())] ^= 1 << bit;
        prop_assert!(is_refused(&changed));
        prop_assert!(is_refused(&file[..cut.index(file.len())]));
    }

    #[test]
    fn bytes_from_anywhere_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(is_refused(&bytes));
        prop_assert!(is_refused(&[&backup(b"x")[..PREAMBLE], &bytes].concat()));
    }
}

#[test]
fn a_part_that_changed_its_length_is_an_error() {
    for (said, there) in [(3, &b"12"[..]), (1, b"12")] {
        let (mut master, mut signing, mut nodes, mut catalog) = (&b""[..], &b""[..], &b""[..], there);
        let mut parts = [
            Source { part: Part::Master, bytes: 0, input: &mut master },
            Source { part: Part::Signing, bytes: 0, input: &mut signing },
            Source { part: Part::Nodes, bytes: 0, input: &mut nodes },
            Source { part: Part::Catalog, bytes: said, input: &mut catalog },
        ];
        let mut out = Vec::new();
        let written = write_at(CHEAP, &mut out, &passphrase(), facts(), &mut parts, &Seam::real());
        assert!(matches!(written, Err(BackupError::Io(_))));
        assert!(is_refused(&out));
    }
}

#[test]
fn a_passphrase_is_one_line_and_never_shown() {
    for (text, fits) in [
        ("12345678", true),
        ("1234567", false),
        ("12345678\r\n", true),
        ("äöüäöüäö", true),
        ("1234\n5678", false),
        ("12345678\n\n", false),
        ("", false),
    ] {
        assert_eq!(Passphrase::new(text).is_ok(), fits, "{text:?}");
    }
    assert_eq!(Passphrase::new("12345678\r\n").unwrap(), Passphrase::new("12345678").unwrap());
    assert!(Passphrase::new(&"x".repeat(1024)).is_ok() && Passphrase::new(&"x".repeat(1025)).is_err());
    assert!(!format!("{:?}", passphrase()).contains("horse"));
    let sent = serde_json::to_string(&passphrase()).unwrap();
    assert_eq!(serde_json::from_str::<Passphrase>(&sent).unwrap(), passphrase());
    assert!(!serde_json::from_str::<Passphrase>("\"horse\"").unwrap_err().to_string().contains("horse"));
}

/// What was written once must open for ever: a change of form needs a new version.
#[tokio::test]
async fn a_backup_has_these_bytes_for_ever() {
    let (mut master, mut signing, mut nodes, mut catalog) = (&b"m"[..], &b"s"[..], &b"{}"[..], &b"the catalog"[..]);
    let mut parts = [
        Source { part: Part::Master, bytes: 1, input: &mut master },
        Source { part: Part::Signing, bytes: 1, input: &mut signing },
        Source { part: Part::Nodes, bytes: 2, input: &mut nodes },
        Source { part: Part::Catalog, bytes: 11, input: &mut catalog },
    ];
    let mut out = Vec::new();
    write(&mut out, &passphrase(), facts(), &mut parts, &Seam::simulated(1)).unwrap();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &out);
    assert_eq!(
        (out.len(), data_encoding::HEXLOWER.encode(hash.as_ref()).as_str()),
        (368, "1f08fdaedcbe98da8525c401ef2e32d20cd50587410ada449fa1ea5a586b33e4")
    );
}
