//! What parses bytes from outside: nothing panics, what is taken is written as it was read, and nothing is taken that was
//! changed under a hash, a seal or a signature.

use std::str::FromStr;

use bytenode::api::Sha256;
use bytenode::car::{CarReader, Section};
use bytenode::daemon::config;
use bytenode::grant::{Grant, Nonce, PackReceipt, PublicKey, SigningKey, Start, Verb};
use bytenode::id::{ChunkId, NodeId, PackId, PackRoot, PoolId, UploadId};
use bytenode::pack::{MAX_CHUNKS, Pack, PackEntry, PackHeader};
use bytenode::pack_reader::{PackReader, Scope};
use bytenode::path::RemotePath;
use bytenode::seal::{self, ChunkKey, Key};
use bytenode::{api::Part, node::probe, size};
use bytes::{Bytes, BytesMut};

use super::bend;

fn texts(samples: &[&str]) -> Vec<Vec<u8>> {
    samples.iter().map(|sample| sample.as_bytes().to_vec()).collect()
}

/// Text that can be read is written as it was read.
fn round_trip<T: FromStr + ToString>(what: &str, samples: &[String]) {
    let samples: Vec<Vec<u8>> = samples.iter().map(|sample| sample.clone().into_bytes()).collect();
    bend(what, 1, &samples, |_, _, bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(read) = T::from_str(&text) {
            let again = read.to_string();
            assert_eq!(T::from_str(&again).ok().map(|read| read.to_string()), Some(again));
        }
    });
}

#[test]
fn names() {
    let key = SigningKey::from_seed(&[1; 32]).public();
    round_trip::<RemotePath>("path", &["bn:/a/b c/ü.txt".into(), "bn:/".into(), "bn:/a//b/./c".into()]);
    round_trip::<ChunkId>("chunk", &[ChunkId::of(b"a").to_string()]);
    round_trip::<PackRoot>("root", &[PackRoot::of(b"a").to_string()]);
    round_trip::<NodeId>("node", &[key.node_id().to_string(), "12D3KooWabc".into()]);
    round_trip::<UploadId>("upload", &[UploadId::from_bytes([7; 16]).to_string()]);
    round_trip::<PublicKey>("key", &[key.to_string()]);
    round_trip::<Nonce>("nonce", &[Nonce([3; 32]).to_string()]);
    round_trip::<Sha256>("hash", &[Sha256([9; 32]).to_string()]);
}

#[test]
fn paths_lead_nowhere_else() {
    bend("path", 1, &texts(&["bn:/a/../b", "bn:/./x/", "bn:/a\\b/c:d", "/etc/passwd", "bn:a"]), |_, _, bytes| {
        let Ok((path, _)) = RemotePath::parse_typed(&String::from_utf8_lossy(bytes)) else { return };
        for segment in path.segments() {
            let odd = segment.is_empty() || segment == "." || segment == ".." || segment.contains(['/', '\0']);
            assert!(!odd, "{segment:?}");
        }
    });
}

#[test]
fn sizes_addresses_and_configuration() {
    bend("size", 1, &texts(&["500G", "1.5 TiB", "1024"]), |_, _, bytes| {
        drop(size::parse(&String::from_utf8_lossy(bytes)));
    });
    let addresses = ["http://127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001", "host:5001", "https://u:p@[::1]/x"];
    bend("address", 1, &texts(&addresses), |_, _, bytes| drop(probe::parse_address(&String::from_utf8_lossy(bytes))));
    let config = include_bytes!("../../config.example.toml").to_vec();
    bend("configuration", 8, &[config], |_, _, bytes| drop(config::parse(&String::from_utf8_lossy(bytes))));
}

fn pack(chunks: usize) -> Pack {
    let bytes: Vec<Bytes> = (0..chunks).map(|at| Bytes::from(vec![u8::try_from(at % 251).unwrap(); 40 + at])).collect();
    let entries = bytes.iter().map(|b| PackEntry { chunk: ChunkId::of(b), bytes: b.len() as u64 }).collect();
    Pack::new(PackHeader { pool: PoolId::from_bytes([5; 16]), epoch: 3, id: PackId::new(9), entries }, bytes)
}

fn car(pack: &Pack) -> Vec<u8> {
    pack.car().into_iter().flatten().collect()
}

#[test]
fn pack_roots_are_canonical() {
    let samples: Vec<Vec<u8>> = [1, 3, 200].map(|chunks| pack(chunks).header().root_block()).to_vec();
    bend("pack root", 1, &samples, |_, _, bytes| {
        if let Ok(header) = PackHeader::parse(bytes) {
            assert!(header.root_block() == bytes && header.entries.len() <= MAX_CHUNKS);
        }
    });
}

/// Whatever pieces it comes in.
#[test]
fn car_files() {
    let samples: Vec<Vec<u8>> = [1, 3, 20].map(|chunks| car(&pack(chunks))).to_vec();
    bend("car", 1, &samples, |chance, _, bytes| {
        let mut reader = CarReader::new();
        let mut total = 0;
        for piece in bytes.chunks(1 + chance.below(200)) {
            reader.push(piece);
            loop {
                match reader.next() {
                    Ok(Some(Section::Block { bytes: block, .. })) => total += block.len(),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
        assert!(total <= bytes.len());
        drop(reader.finish());
    });
}

/// What is kept of a bent pack is the pack that was permitted, to the bit; what arrives whole is some pack of this pool.
#[test]
fn packs_on_their_way_in() {
    let pool = PoolId::from_bytes([5; 16]);
    let packs = [1, 3, 20].map(pack);
    let samples = packs.each_ref().map(car).to_vec();
    bend("pack", 1, &samples, |chance, sample, bytes| {
        let of = packs.iter().find(|pack| car(pack) == sample).unwrap();
        let exact = Scope::Pack { root: of.header().root(), bytes: sample.len() as u64 };
        let scope = *chance.of(&[Scope::Any, exact]);
        let mut reader = PackReader::new(pool, scope);
        for piece in bytes.chunks(1 + chance.below(200)) {
            if reader.push(piece).is_err() {
                return;
            }
            loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
        if reader.finish().is_ok() && scope != Scope::Any {
            assert!(bytes == sample, "other bytes are taken for it");
        }
    });
}

#[test]
fn what_is_signed_is_what_is_read() {
    let key = SigningKey::from_seed(&[1; 32]);
    let public = key.public();
    let (pool, node) = (PoolId::from_bytes([5; 16]), public.node_id());
    let by = Start { epoch: 3, instance: "one".to_owned() };
    let grant = Grant { by, pool, node: node.clone(), what: Verb::Manage, until: 100 };
    let receipt = PackReceipt { pool, node, root: PackRoot::of(b"r"), bytes: 7, synced: 9 };
    let nonce = Nonce([4; 32]);
    let samples = [key.grant(&grant).expose().to_owned(), key.receipt(&receipt), key.prove(&nonce)];
    let samples: Vec<Vec<u8>> = samples.into_iter().map(String::into_bytes).collect();
    bend("token", 1, &samples, |_, _, bytes| {
        let text = String::from_utf8_lossy(bytes);
        assert!(public.read_grant(&text).is_ok_and(|read| read == grant) == (samples[0] == bytes));
        assert!(public.read_receipt(&text).is_ok_and(|read| read == receipt) == (samples[1] == bytes));
        assert!(public.is_proved(&nonce, &text) == (samples[2] == bytes));
    });
}

#[test]
fn what_is_sealed_opens_only_as_it_was() {
    let key = |byte| Key::from_bytes([byte; 32]);
    let sealed = seal::seal(&key(1), BytesMut::from(&b"a chunk of somebody's"[..]));
    let of = |at: u8| ChunkKey {
        chunk: ChunkId::of(&[at]),
        part: Part::Sealed,
        length: u32::from(at),
        version: seal::VERSION,
        key: key(at),
    };
    let entries: Vec<ChunkKey> = (0..5).map(of).collect();
    let page = seal::seal_keys(&key(2), 3, &entries, [6; 12]);
    let wrapped = seal::wrap(&key(3), "purpose", b"secret", [7; 12]);
    let samples = vec![sealed.bytes.to_vec(), page, wrapped];
    bend("sealed", 1, &samples, |_, _, bytes| {
        assert_eq!(seal::unseal(&sealed.key, BytesMut::from(bytes)).is_ok(), samples[0] == bytes);
        assert_eq!(seal::unseal_keys(&key(2), 3, bytes).is_ok(), samples[1] == bytes);
        assert_eq!(seal::unwrap(&key(3), "purpose", bytes).is_ok(), samples[2] == bytes);
    });
}
