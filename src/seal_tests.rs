//! Tests of sealing: fixed vectors, computed independently with Python's `cryptography` and `blake3`, and properties.

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

fn counting(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn key(seed: u8) -> Key {
    Key::from_bytes(std::array::from_fn(|at| seed.wrapping_add(at as u8)))
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn entry(seed: u8) -> ChunkKey {
    ChunkKey { chunk: ChunkId::of(&[seed]), part: Part::Sealed, length: 1 << 20, version: VERSION, key: key(seed) }
}

#[test]
fn sealed_chunks_have_these_bytes_for_ever() {
    let vectors = [
        (
            0,
            "73492b19995d71cdb1e9d74decc09809eb732f1b00bc95c27cb15f9dd4d6478f",
            "ae1c3b3eefe65ae9a2a884e0bf80a4c61a54ed357b66354299fec776c40d770f",
        ),
        (
            300,
            "589266d0414bbe71e505d18969f578c5407cb9825b6d58fe15146a6099ffd7df",
            "153a3cb8e9d98d8ac31480ee1f37753cf752b1a8986e02cf0e3ff8b0b528aca4",
        ),
        (
            1 << 20,
            "41ea736b1b21b783ee45a710ad45b7c92f6387cced218ad6a35a0bf900632ab4",
            "f19d3eee53b1f6ba70fd3d1b81c8dc93fd9cdd1d19022a23b7d27bc6a46f09c4",
        ),
    ];
    for (length, chunk_key, digest) in vectors {
        let sealed = seal(&key(0), BytesMut::from(&counting(length)[..]));
        assert_eq!(hex(sealed.key.expose()), chunk_key, "{length}");
        assert_eq!(hex(sealed.chunk.digest()), digest, "{length}");
        assert_eq!(sealed.bytes.len(), length + OVERHEAD);
    }
    let empty = seal(&key(0), BytesMut::new());
    assert_eq!(hex(&empty.bytes), "57d760ea6cc36aba9bb027f8fed65ca0");
}

#[test]
fn pages_of_keys_and_wrapped_secrets_have_these_bytes_for_ever() {
    let page = seal_keys(&key(1), 1024, &[entry(7), entry(8)], [9; 12]);
    assert_eq!(
        hex(&page),
        "090909090909090909090909bf8ffa97a1ed95e945012bd27cd3329f84fdcc19ef866c1f54c07764dffcf0a567d898bc32a1014ac531993ae63e869f2097802e26d67006366a18dc98f16d4cbc7b9ca34a7a46eced4c4168399f2686394775f7bce7ef70954bebbc0a7a9e979678c280103f3ea0e6b08ff025b4f143cd502c0309e32d650dec23021de3cbc5cd2c7b8dc515bc52d7bd0523f90247e466199336223eedf3cad7b55c"
    );
    let file_key = wrap_key(&key(2), FILE_KEY, &key(3), [10; 12]);
    assert_eq!(
        hex(&file_key),
        "0a0a0a0a0a0a0a0a0a0a0a0aea4c9ec7d8475be33bb60774c568e4b56b8108e432843d7594d18d2307af7caa3218f575ceee6eedfe3bc11ce54efe88"
    );
    let keys = VaultKeys { dedup: key(4), wrap: key(5) };
    let vault = wrap(&key(6), VAULT_KEYS, keys.to_bytes().as_slice(), [11; 12]);
    assert_eq!(
        hex(&vault),
        "0b0b0b0b0b0b0b0b0b0b0b0b896e1c4f6737b710b2c756a7d9405cb569f74804bee99635c7f629a7ebef47aaf6c52929a759cda8e89856797c3853ca72ef5d9319bfb3597b2255a24551691a0a7020f40b63450b362a6f3e5fa1b71c"
    );
}

#[test]
fn a_buffer_with_room_is_not_copied() {
    let mut plaintext = BytesMut::with_capacity(1000 + OVERHEAD);
    plaintext.extend_from_slice(&counting(1000));
    let at = plaintext.as_ptr();
    let sealed = seal(&key(0), plaintext);
    assert_eq!(sealed.bytes.as_ptr(), at);
    let stored = sealed.bytes.try_into_mut().unwrap();
    assert_eq!(unseal(&sealed.key, stored).unwrap().as_ptr(), at);
}

#[test]
fn short_long_and_unknown_input_is_refused() {
    for length in 0..OVERHEAD {
        assert_eq!(unseal(&key(0), BytesMut::zeroed(length)), Err(SealError::Length));
    }
    for length in 0..NONCE_BYTES + OVERHEAD {
        assert_eq!(unseal_keys(&key(0), 0, &vec![0; length]), Err(SealError::Length));
        assert_eq!(unwrap(&key(0), "x", &vec![0; length]), Err(SealError::Length));
    }
    let too_many = NONCE_BYTES + OVERHEAD + (MAX_KEYS + 1) * ENTRY_BYTES;
    assert_eq!(unseal_keys(&key(0), 0, &vec![0; too_many]), Err(SealError::Length));
    let full = vec![entry(3); MAX_KEYS];
    assert_eq!(unseal_keys(&key(0), 0, &seal_keys(&key(0), 0, &full, [0; 12])), Ok(full));
    assert_eq!(unwrap_key(&key(0), "x", &wrap(&key(0), "x", &[0; 31], [0; 12])), Err(SealError::Length));
    assert_eq!(VaultKeys::from_bytes(&[0; 63]), Err(SealError::Length));

    let forge = |at: usize, value: u8| {
        let mut page = prefixed([1; 12], ENTRY_BYTES);
        entry(0).write(&mut page);
        page[NONCE_BYTES + at] = value;
        unseal_keys(&key(0), 0, &finish(&key(0), [1; 12], &keys_aad(0), page))
    };
    assert!(forge(0, 0).is_ok());
    assert_eq!(forge(32, 3), Err(SealError::Malformed));
    assert_eq!(forge(33, 1), Err(SealError::Malformed));
    assert_eq!(forge(37, 2), Err(SealError::Version(2)));
}

/// A buffer that grows is copied, and what it held stays behind in memory that nobody wipes.
#[test]
fn what_is_to_be_encrypted_never_moves() {
    for count in [0, 1, 3, 50, MAX_KEYS] {
        let page = seal_keys(&key(0), 0, &vec![entry(3); count], [0; 12]);
        assert_eq!(page.capacity(), page.len(), "{count} keys");
    }
    let wrapped = wrap_key(&key(0), FILE_KEY, &key(1), [0; 12]);
    assert_eq!(wrapped.capacity(), wrapped.len());
}

#[test]
fn a_key_is_never_shown() {
    let shown = format!("{:?} {:?}", entry(0x41), VaultKeys { dedup: key(0x41), wrap: key(0x41) });
    assert!(!shown.contains("ABC") && !shown.contains("65, 66"), "{shown}");
}

fn entries() -> impl Strategy<Value = Vec<ChunkKey>> {
    let part = prop::sample::select(vec![Part::Sealed, Part::Plain, Part::Link]);
    let length =
        prop_oneof![0..=u32::try_from(MAX_CHUNK_BYTES).unwrap(), Just(u32::try_from(MAX_CHUNK_BYTES).unwrap())];
    let any = (any::<u8>(), part, length).prop_map(|(seed, part, length)| ChunkKey { part, length, ..entry(seed) });
    prop::collection::vec(any, 0..20)
}

proptest! {
    #[test]
    fn chunks_round_trip_and_any_flipped_bit_is_refused(
        plaintext in prop::collection::vec(any::<u8>(), 0..2000),
        vault: [u8; 32],
        bit: prop::sample::Index,
    ) {
        let vault = Key::from_bytes(vault);
        let sealed = seal(&vault, BytesMut::from(&plaintext[..]));
        prop_assert_eq!(&seal(&vault, BytesMut::from(&plaintext[..])), &sealed);
        prop_assert!(sealed.chunk.names(&sealed.bytes));
        let opened = unseal(&sealed.key, BytesMut::from(&sealed.bytes[..]));
        prop_assert_eq!(opened.as_deref(), Ok(&plaintext[..]));

        prop_assert!(is_sealed_as(&sealed.key, &plaintext, &sealed.chunk));
        prop_assert!(!is_sealed_as(&vault, &plaintext, &sealed.chunk));
        prop_assert!(!is_sealed_as(&sealed.key, &[&plaintext[..], b"x"].concat(), &sealed.chunk));

        let bit = bit.index(sealed.bytes.len() * 8);
        let mut flipped = BytesMut::from(&sealed.bytes[..]);
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(unseal(&sealed.key, flipped), Err(SealError::Proof));
        prop_assert_eq!(unseal(&vault, BytesMut::from(&sealed.bytes[..])), Err(SealError::Proof));

        let mut other = *vault.expose();
        other[0] ^= 1;
        prop_assert!(seal(&Key::from_bytes(other), BytesMut::from(&plaintext[..])).chunk != sealed.chunk);
    }

    #[test]
    fn pages_of_keys_round_trip_and_nothing_else_opens(
        keys in entries(), first: u64, other: u64, nonce: [u8; 12], bit: prop::sample::Index,
    ) {
        let page = seal_keys(&key(1), first, &keys, nonce);
        prop_assert_eq!(unseal_keys(&key(1), first, &page), Ok(keys));
        prop_assert_eq!(unseal_keys(&key(2), first, &page), Err(SealError::Proof));
        if other != first {
            prop_assert_eq!(unseal_keys(&key(1), other, &page), Err(SealError::Proof));
        }
        let bit = bit.index(page.len() * 8);
        let mut flipped = page;
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(unseal_keys(&key(1), first, &flipped), Err(SealError::Proof));
    }

    #[test]
    fn wrapped_secrets_round_trip_and_nothing_else_opens(
        secret in prop::collection::vec(any::<u8>(), 0..100), nonce: [u8; 12], bit: prop::sample::Index,
    ) {
        let wrapped = wrap(&key(1), FILE_KEY, &secret, nonce);
        prop_assert_eq!(unwrap(&key(1), FILE_KEY, &wrapped), Ok(Zeroizing::new(secret)));
        prop_assert_eq!(unwrap(&key(2), FILE_KEY, &wrapped), Err(SealError::Proof));
        prop_assert_eq!(unwrap(&key(1), VAULT_KEYS, &wrapped), Err(SealError::Proof));
        let bit = bit.index(wrapped.len() * 8);
        let mut flipped = wrapped;
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(unwrap(&key(1), FILE_KEY, &flipped), Err(SealError::Proof));
    }

    #[test]
    fn keys_round_trip(one: [u8; 32], two: [u8; 32], nonce: [u8; 12]) {
        let keys = VaultKeys { dedup: Key::from_bytes(one), wrap: Key::from_bytes(two) };
        prop_assert_eq!(VaultKeys::from_bytes(keys.to_bytes().as_slice()), Ok(keys.clone()));
        let wrapped = wrap_key(&keys.wrap, FILE_KEY, &keys.dedup, nonce);
        prop_assert_eq!(unwrap_key(&keys.wrap, FILE_KEY, &wrapped), Ok(keys.dedup.clone()));
    }

    #[test]
    fn anything_at_all_is_refused_calmly(noise in prop::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(unseal(&key(0), BytesMut::from(&noise[..])).is_err());
        prop_assert!(unseal_keys(&key(0), 0, &noise).is_err());
        prop_assert!(unwrap_key(&key(0), FILE_KEY, &noise).is_err());
    }
}
