//! Tests of UnixFS against published vectors (Kubo's own, IPIP-0499). `tests/kubo_unixfs.rs` compares with a live `ipfs`.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};

use super::*;
use crate::id::sha256;

const MIB: u64 = 1 << 20;

/// What Kubo's generator of test data makes: the ChaCha20 key stream under the seed's SHA-256, nonce and counter 0.
///
/// ChaCha20-Poly1305 (RFC 8439, 2.8) encrypts with that stream from its second block on; used because it is fast in a
/// build without optimisation, where 200 MiB from the `chacha20` crate take half a minute.
fn key_stream(seed: &str, size: u64) -> Vec<u8> {
    let key = sha256(seed.as_bytes());
    let mut stream = vec![0; usize::try_from(size).unwrap()];
    let (first, rest) = stream.split_at_mut(usize::try_from(size.min(64)).unwrap());
    ChaCha20::new(&key.into(), &[0; 12].into()).apply_keystream(first);
    let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
    let _tag = cipher.seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), rest).unwrap();
    stream
}

fn generated(seed: &str, size: u64, width: usize) -> (Vec<Node>, Root) {
    let (mut dag, mut nodes) = (FileDag::new(width), Vec::new());
    for chunk in key_stream(seed, size).chunks(1 << 20) {
        nodes.extend(dag.leaf(&ChunkId::of(chunk), chunk.len() as u64));
    }
    let (rest, root) = dag.finish();
    nodes.extend(rest);
    assert_eq!(root.size, size);
    (nodes, root)
}

#[test]
fn roots_are_those_that_kubo_publishes() {
    let vectors = [
        ("chunk-v1-seed", MIB, 1024, "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
        ("chunk-v1-seed", MIB + 1, 1024, "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
        ("bytenode", 0, 1024, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        ("bytenode", 1, 1024, "bafkreigfk7trhaarfoma5lyrix5iayqrgdp336q6g5oyplqadc34mcwbnm"),
        ("bytenode", MIB - 1, 1024, "bafkreiaks6vwbgtsvvxyklscp7ilohir2sjsxhzfkwblrt33a73rjsjmvy"),
        ("bytenode", MIB, 1024, "bafkreibzzqc3yjhe2dn2tzt6be7526afu4f3njwqz4fdjqqv3mewwljrra"),
        ("bytenode", MIB + 1, 1024, "bafybeih6nswjkkgiu34fhtw23mancw3emnphnnpvjrj2rcniuhulamoqby"),
        ("bytenode", 2 * MIB, 1024, "bafybeig3jcbelfj2cxeu5h6b4u6fki6iinkwlufhu5qtsttdwjsocsry2a"),
        ("bytenode", 5 * MIB + 3, 1024, "bafybeiata3ol2toqry36jbgmtaxy775jdnct32l3fajojgkdysozkl7ke4"),
        ("bytenode", 200 * MIB + 1, 174, "bafybeigoaooyy5zy6ie2535kytogizwv2dau4ejcfwtta25qamgdleummm"),
        ("bytenode", 200 * MIB + 1, 1024, "bafybeigdfejnldqkdqafzavpvbnfrdsoisiof5hksq5czvti4mnytqv3qa"),
    ];
    for (seed, size, width, cid) in vectors {
        assert_eq!(generated(seed, size, width).1.cid.to_string(), cid, "{seed} {size} {width}");
    }
    let mut dag = FileDag::new(WIDTH);
    dag.leaf(&ChunkId::of(b"hello world"), 11);
    let hello = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    assert_eq!(dag.finish().1.cid.to_string(), hello);
}

#[test]
fn a_root_block_has_these_bytes() {
    let (nodes, root) = generated("chunk-v1-seed", MIB + 1, 1024);
    let expected = "122c0a24015512200268cb8e7373247d08ea6c0846700eb7b9c8eb58bfecbd921e4252e9e266ec9812001880804012\
                    2a0a24015512204d7b3ef7300acf70c892d8327db8272f54434adbc61a4e130a563cb59a0d0f47120018010a0c080218\
                    818040208080402001";
    assert_eq!(nodes.len(), 1);
    assert_eq!(data_encoding::HEXLOWER.encode(&nodes[0].block), expected);
    assert_eq!((nodes[0].cid, root.total), (root.cid, MIB + 1 + 104));
    assert!(nodes[0].chunk.names(&nodes[0].block));
}

#[test]
fn nodes_come_when_they_are_complete_children_first() {
    for leaves in 0..70u64 {
        let (mut dag, mut nodes) = (FileDag::new(4), Vec::new());
        for number in 0..leaves {
            nodes.extend(dag.leaf(&ChunkId::of(&number.to_be_bytes()), 10));
            assert!(dag.levels.iter().all(|level| level.len() < 4));
        }
        let (rest, root) = dag.finish();
        nodes.extend(rest);
        assert_eq!(root.size, 10 * leaves);
        // Level by level, by the definition.
        let (mut level, mut count) = (leaves, 0);
        while level > 1 {
            level = level.div_ceil(4);
            count += level;
        }
        assert_eq!(nodes.len() as u64, count, "{leaves} leaves");
        assert!(nodes.last().is_none_or(|node| node.cid == root.cid));
        let mut known: Vec<Cid> = (0..leaves).map(|number| ChunkId::of(&number.to_be_bytes()).cid()).collect();
        for node in &nodes {
            let links = PbNode::from_bytes(node.block.clone()).unwrap().links;
            assert!(links.iter().all(|link| known.contains(&link.cid)), "{leaves} leaves");
            known.push(node.cid);
        }
    }
}

#[test]
fn a_root_of_1024_full_chunks_has_the_known_length() {
    let mut dag = FileDag::new(WIDTH);
    let made: Vec<Node> = (0..1024).flat_map(|_| dag.leaf(&ChunkId::of(b"x"), MIB)).collect();
    assert_eq!(made.iter().map(|node| node.block.len()).collect::<Vec<_>>(), [51_211]);
    let (rest, root) = dag.finish();
    assert!(rest.is_empty());
    assert_eq!(root.cid, made[0].cid);
}
