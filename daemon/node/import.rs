//! `dag/import`: a pack arrives, is hashed as it comes, and is acknowledged with a signed receipt once it is durable.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, Uri};
use bytes::Bytes;

use super::face::{Face, SharedFace};
use crate::daemon::kubo::answer::{Refusal, import_answer, json_lines};
use crate::daemon::kubo::body::{Arriving, content_type, values, wrong_act};
use crate::daemon::kubo::multipart::PartReader;
use crate::grant::Verb;
use crate::id::PoolId;
use crate::node::builtin::{PackWriter, Scope, Written};

pub(super) async fn import(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    let (head, mut body) = request.into_parts();
    let mut arriving = Arriving::new(&mut body, face.limits.progress);
    let stored = async {
        let (pool, verb) = face.permitted_to_change(&head.headers)?;
        let scope = match verb {
            Verb::Write { root, bytes } => Scope::Pack { root, bytes },
            Verb::Manage => Scope::Any,
            Verb::Read { .. } => return Err(wrong_act()),
        };
        let part = PartReader::new(content_type(&head.headers))?;
        let _turn = face.turns.write().await?;
        let writer = face.on_store(move |store| store.begin(pool, scope)).await?;
        Ok((pool, receive(&face, Receiving { writer, part }, &mut arriving).await?))
    };
    match stored.await {
        Ok((pool, written)) => Ok(acknowledge(&face, pool, written, &head.uri)),
        Err(refusal) => {
            if !matches!(refusal, Refusal::Stalled) {
                arriving.linger().await;
            }
            Err(refusal)
        }
    }
}

fn acknowledge(face: &Face, pool: PoolId, written: Written, uri: &Uri) -> Response<Body> {
    let (root, receipt, stats) = match written {
        Written::Pack { root, bytes } => {
            let token = face.identity.receipt(pool, root, bytes, face.seam.now());
            (root, Some(token), None)
        }
        Written::RootOnly(header) => {
            let asked = values(uri, "stats") == ["true"];
            let stats = asked.then(|| (1, header.root_block().len() as u64));
            let root = header.root();
            face.stage(header);
            (root, None, stats)
        }
    };
    json_lines(Body::from(import_answer(root, receipt.as_deref(), stats)))
}

/// A body on its way into the store.
struct Receiving {
    writer: PackWriter,
    part: PartReader,
}

impl Receiving {
    fn take(mut self, batch: &[Bytes]) -> Result<Self, Refusal> {
        for bytes in batch {
            let payload = self.part.push(bytes)?;
            self.writer.push(&payload)?;
        }
        Ok(self)
    }

    fn finish(mut self) -> Result<Written, Refusal> {
        let rest = self.part.finish()?;
        self.writer.push(&rest)?;
        Ok(self.writer.finish()?)
    }
}

/// Hashes and writes one batch while the next arrives.
async fn receive(face: &Face, mut receiving: Receiving, arriving: &mut Arriving<'_>) -> Result<Written, Refusal> {
    let mut batch = arriving.batch().await?;
    while !batch.is_empty() {
        let (taken, next) = tokio::join!(face.seam.offload(move || receiving.take(&batch)), arriving.batch());
        receiving = taken?;
        batch = next?;
    }
    face.seam.offload(move || receiving.finish()).await
}
