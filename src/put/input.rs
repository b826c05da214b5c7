//! Reading what is put: chunk by chunk, hashed whole, each chunk sealed (or, for public files, hung into a UnixFS tree).

use std::collections::VecDeque;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

use super::Context;
use super::window::Stored;
use crate::api::{ApiError, ApiResult, ChunkDesc, Code, Entry, Expect, Part, PutSession};
use crate::buffers;
use crate::chunk::FileHash;
use crate::id::ChunkId;
use crate::monitor::Event;
use crate::seal::{self, Key};
use crate::tree::LocalFile;
use crate::unixfs::{FileDag, Node, WIDTH};

/// Chunks being sealed at once.
const SEALING: usize = 3;

/// The longest file that is read whole, with others, unless chunks are shorter.
const SMALL: u64 = 64 << 10;

/// The longest file that is read by [`read_whole`]: one of one chunk at most.
pub(super) fn small(session: &PutSession) -> u64 {
    SMALL.min(u64::from(session.chunk_size))
}

/// What is read.
pub(super) enum Input {
    /// A regular file, and what it looked like when it was opened.
    File(std::fs::File, Look),
    /// A stream of unknown length.
    Stream(Box<dyn AsyncRead + Send + Unpin>),
}

/// What tells that a file changed while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    size: u64,
    modified: Option<std::time::SystemTime>,
}

impl Look {
    fn of(file: &std::fs::File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { size: metadata.len(), modified: metadata.modified().ok() })
    }
}

impl Input {
    pub(super) async fn open(context: &Context, file: &LocalFile) -> ApiResult<Self> {
        let source = file.source.clone();
        let opened = context.seam.offload(move || open_now(&source));
        let (open, look) = opened.await.map_err(|error| cannot_read(&file.source, &error))?;
        Ok(Self::File(open, look))
    }
}

fn open_now(path: &Path) -> std::io::Result<(std::fs::File, Look)> {
    let file = std::fs::File::open(path)?;
    let look = Look::of(&file)?;
    Ok((file, look))
}

fn changed(path: &Path) -> ApiError {
    ApiError::new(Code::Changed, format!("{} changed while it was read", path.display()))
        .hint("run the same command again when nothing writes to it")
}

pub(super) fn cannot_read(path: &Path, error: &std::io::Error) -> ApiError {
    let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Internal };
    ApiError::new(code, format!("cannot read {}: {error}", path.display()))
}

/// The SHA-256 of a local file.
pub(super) async fn hash_file(context: &Context, path: &Path) -> ApiResult<[u8; 32]> {
    crate::get::hash_local(&context.seam, path).await.map_err(|error| cannot_read(path, &error))
}

/// Whether a stream has the content of a file that is stored. Reads no further than shows it.
pub(super) async fn is_same(stream: &mut (dyn AsyncRead + Send + Unpin), entry: &Entry) -> ApiResult<bool> {
    let (mut hash, mut left) = (FileHash::new(), entry.size);
    let mut buffer = BytesMut::with_capacity(256 << 10);
    loop {
        buffer.clear();
        let got = stream.read_buf(&mut buffer).await.map_err(|error| cannot_read(Path::new("-"), &error))?;
        if got == 0 {
            return Ok(left == 0 && entry.sha256.is_some_and(|there| there.0 == hash.finish()));
        }
        let Some(rest) = left.checked_sub(got as u64) else { return Ok(false) };
        left = rest;
        hash.update(&buffer);
    }
}

/// A file that was read whole.
pub(super) struct Whole {
    pub key: Option<Key>,
    pub chunks: Vec<Stored>,
    pub end: End,
}

/// Small files, read and sealed together, so that each costs little besides.
pub(super) async fn read_whole(
    context: &Context,
    session: &PutSession,
    public: bool,
    files: Vec<(LocalFile, Expect)>,
) -> Vec<(LocalFile, Expect, ApiResult<Whole>)> {
    let (dedup, most) = ((!public).then(|| session.keys.dedup.clone()), small(session));
    let keys: Vec<Option<Key>> =
        files.iter().map(|_| (!public).then(|| Key::from_bytes(context.seam.bytes()))).collect();
    let read = move || {
        let one = |((file, expect), key): ((LocalFile, Expect), Option<Key>)| {
            let whole = whole(&file, most, dedup.as_ref(), key);
            (file, expect, whole)
        };
        files.into_iter().zip(keys).map(one).collect()
    };
    context.seam.offload(read).await
}

fn whole(file: &LocalFile, most: u64, dedup: Option<&Key>, key: Option<Key>) -> ApiResult<Whole> {
    let failed = |error| cannot_read(&file.source, &error);
    let (open, look) = open_now(&file.source).map_err(failed)?;
    if look.size > most {
        // It grew since it was found.
        return Err(changed(&file.source));
    }
    let size = usize::try_from(look.size).unwrap_or(0);
    // A byte more than there should be, which there is if it grew.
    let mut plain = BytesMut::with_capacity(size + 1 + seal::OVERHEAD);
    plain.resize(size + 1, 0);
    let got = fill_now(&open, &mut plain).map_err(failed)?;
    plain.truncate(got);
    if Look::of(&open).map_err(failed)? != look || got != size {
        return Err(changed(&file.source));
    }
    let mut hash = FileHash::new();
    hash.update(&plain);
    let mut leaves = Leaves { dag: dedup.is_none().then(|| FileDag::new(WIDTH)), ..Leaves::default() };
    let mut chunks = Vec::new();
    if !plain.is_empty() {
        chunks.extend(leaves.with_links(store(dedup, plain)));
    }
    chunks.extend(leaves.last_links(look.size));
    let end = End { size: look.size, sha256: hash.finish(), chunks: leaves.chunks, cid: leaves.root };
    Ok(Whole { key, chunks, end })
}

/// Counts the chunks of a file, and hangs those of a public one into a tree.
#[derive(Default)]
struct Leaves {
    dag: Option<FileDag>,
    root: Option<String>,
    chunks: u64,
}

impl Leaves {
    /// A chunk of data, and the links that it completes.
    fn with_links(&mut self, stored: Stored) -> Vec<Stored> {
        let nodes = match &mut self.dag {
            Some(dag) => dag.leaf(&stored.desc.chunk, stored.desc.length),
            None => Vec::new(),
        };
        let all: Vec<Stored> = std::iter::once(stored).chain(nodes.into_iter().map(link)).collect();
        self.chunks += all.len() as u64;
        all
    }

    /// The links that are left at the end of a file of so many bytes; once.
    fn last_links(&mut self, size: u64) -> Vec<Stored> {
        let Some(dag) = self.dag.take() else { return Vec::new() };
        let (mut nodes, root) = dag.finish();
        self.root = Some(root.cid.to_string());
        if size == 0 {
            // An empty file has no chunk, but a gateway that is asked for its CID must find the empty block.
            nodes.push(Node { block: Bytes::new(), cid: root.cid, chunk: ChunkId::of(b"") });
        }
        self.chunks += nodes.len() as u64;
        nodes.into_iter().map(link).collect()
    }
}

/// What a reader gives.
pub(super) enum Piece {
    /// The next chunks, in order: data, and perhaps links.
    Chunks(Vec<Stored>),
    /// The end.
    End(End),
}

/// What is known of a file at its end.
pub(super) struct End {
    pub size: u64,
    pub sha256: [u8; 32],
    pub chunks: u64,
    pub cid: Option<String>,
}

/// Reads one input.
pub(super) struct Reader {
    context: Context,
    session: Arc<PutSession>,
    file: LocalFile,
    /// Nothing while a read of it is offloaded, and after its end.
    input: Option<Input>,
    look: Option<Look>,
    hash: Option<FileHash>,
    sealing: VecDeque<JoinHandle<Stored>>,
    key: Option<Key>,
    leaves: Leaves,
    size: u64,
}

impl Reader {
    pub(super) fn new(
        context: &Context,
        session: &Arc<PutSession>,
        public: bool,
        input: Input,
        file: LocalFile,
    ) -> Self {
        let look = if let Input::File(_, look) = &input { Some(*look) } else { None };
        Self {
            context: context.clone(),
            session: Arc::clone(session),
            file,
            input: Some(input),
            look,
            hash: Some(FileHash::new()),
            sealing: VecDeque::new(),
            key: (!public).then(|| Key::from_bytes(context.seam.bytes())),
            leaves: Leaves { dag: public.then(|| FileDag::new(WIDTH)), ..Leaves::default() },
            size: 0,
        }
    }

    /// The file's own key; nothing for a public file.
    pub(super) fn file_key(&self) -> Option<Key> {
        self.key.clone()
    }

    /// The next chunks, or the end.
    pub(super) async fn next(&mut self) -> ApiResult<Piece> {
        while self.input.is_some() && self.sealing.len() < SEALING {
            let Some(plain) = self.read().await? else { break };
            self.size += plain.len() as u64;
            self.context.watch.event(Event::Read(plain.len() as u64));
            self.begin_seal(plain);
        }
        match self.sealing.pop_front() {
            Some(sealed) => {
                let stored =
                    sealed.await.map_err(|error| ApiError::new(Code::Internal, format!("sealing stopped: {error}")))?;
                Ok(Piece::Chunks(self.leaves.with_links(stored)))
            }
            None => self.end(),
        }
    }

    fn end(&mut self) -> ApiResult<Piece> {
        let last = self.leaves.last_links(self.size);
        if !last.is_empty() {
            return Ok(Piece::Chunks(last));
        }
        let hash = self.hash.take().ok_or_else(|| ApiError::new(Code::Internal, "a file was read past its end"))?;
        let (chunks, cid) = (self.leaves.chunks, self.leaves.root.take());
        Ok(Piece::End(End { size: self.size, sha256: hash.finish(), chunks, cid }))
    }

    fn begin_seal(&mut self, plain: BytesMut) {
        let seam = self.context.seam.clone();
        let dedup = self.key.as_ref().map(|_| self.session.keys.dedup.clone());
        let seal = async move { seam.offload(move || store(dedup.as_ref(), plain)).await };
        self.sealing.push_back(tokio::spawn(seal));
    }

    /// The next chunk of plaintext; nothing at the end.
    async fn read(&mut self) -> ApiResult<Option<BytesMut>> {
        let size = self.session.chunk_size as usize;
        let mut hash = self.hash.take().unwrap_or_default();
        let plain = match self.input.take() {
            None => None,
            Some(Input::Stream(mut stream)) => {
                let mut plain = buffers::take(size + 16);
                fill(&mut stream, &mut plain, size).await.map_err(|error| cannot_read(&self.file.source, &error))?;
                let more = plain.len() == size;
                if more {
                    self.input = Some(Input::Stream(stream));
                }
                hash.update(&plain);
                (!plain.is_empty()).then_some(plain)
            }
            Some(Input::File(file, look)) => {
                let left = look.size.saturating_sub(self.size).saturating_add(1);
                let room = usize::try_from(left).map_or(size, |left| left.min(size));
                let mut plain = buffers::take(room + 16);
                let read = move || -> std::io::Result<_> {
                    plain.resize(room, 0);
                    let got = fill_now(&file, &mut plain)?;
                    plain.truncate(got);
                    hash.update(&plain);
                    Ok((file, hash, plain))
                };
                let (file, hashed, plain) =
                    self.context.seam.offload(read).await.map_err(|error| cannot_read(&self.file.source, &error))?;
                hash = hashed;
                if plain.len() == room && room == size {
                    self.input = Some(Input::File(file, look));
                } else {
                    self.check_unchanged(&file, self.size + plain.len() as u64)?;
                }
                (!plain.is_empty()).then_some(plain)
            }
        };
        self.hash = Some(hash);
        Ok(plain)
    }

    fn check_unchanged(&self, file: &std::fs::File, read: u64) -> ApiResult<()> {
        let now = Look::of(file).map_err(|error| cannot_read(&self.file.source, &error))?;
        if Some(now) == self.look && now.size == read {
            return Ok(());
        }
        Err(changed(&self.file.source))
    }
}

fn link(node: Node) -> Stored {
    let chunk = ChunkId::of(&node.block);
    let desc = ChunkDesc { chunk, bytes: node.block.len() as u64, length: 0, part: Part::Link };
    Stored { desc, bytes: node.block, key: None }
}

fn store(dedup: Option<&Key>, plain: BytesMut) -> Stored {
    let length = plain.len() as u64;
    match dedup {
        Some(dedup) => {
            let sealed = seal::seal(dedup, plain);
            let bytes = sealed.bytes.len() as u64;
            let desc = ChunkDesc { chunk: sealed.chunk, bytes, length, part: Part::Sealed };
            Stored { desc, bytes: sealed.bytes, key: Some(sealed.key) }
        }
        None => {
            let bytes: Bytes = plain.freeze();
            let desc = ChunkDesc { chunk: ChunkId::of(&bytes), bytes: length, length, part: Part::Plain };
            Stored { desc, bytes, key: None }
        }
    }
}

async fn fill(stream: &mut (dyn AsyncRead + Send + Unpin), plain: &mut BytesMut, size: usize) -> std::io::Result<()> {
    while plain.len() < size {
        let room = (size - plain.len()) as u64;
        let got = (&mut *stream).take(room).read_buf(plain).await?;
        if got == 0 {
            break;
        }
    }
    Ok(())
}

fn fill_now(mut file: &std::fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
