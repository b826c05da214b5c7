//! What a check-up from outside needs to know: how clients reach nodes, what can go wrong on them, the catalog's room.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::uploads::MAX_MACHINE_BYTES;
use super::{Coordinator, internal};
use crate::admin::{CatalogDisk, CheckResult, NodeCheck, NodeRisks, NodeWay};
use crate::api::{ApiError, ApiResult, Code};
use crate::space::Space;

/// How long the nodes may take to tell their risks, all at once: less than the limit of a call.
const RISKS: Duration = Duration::from_secs(10);

impl Coordinator {
    /// How a client on `machine` reaches each node.
    pub(super) fn ways(&self, machine: &str) -> ApiResult<Vec<NodeWay>> {
        if machine.len() > MAX_MACHINE_BYTES {
            return Err(ApiError::new(Code::Usage, "the name of the client's machine is too long"));
        }
        let way = |member: &std::sync::Arc<super::registry::Member>| NodeWay {
            address: self.address(member, machine),
            relayed: self.relayed(&member.row, machine),
        };
        Ok(self.nodes.all().iter().map(way).collect())
    }

    /// What can go wrong on each node that works.
    pub(super) async fn risks(&self) -> Vec<NodeRisks> {
        let members = self.nodes.all();
        let ask = members.iter().map(|member| async {
            let secret = self.keys.node(&member.row.id);
            let checks = tokio::time::timeout(RISKS, self.connect.risks(&member.row, &secret)).await;
            let slow = || NodeCheck {
                check: "risks".to_owned(),
                result: CheckResult::Risk,
                message: format!("what can go wrong on it was not told within {} s", RISKS.as_secs()),
                hint: Some(format!("bytenode admin node test {}", member.row.name)),
            };
            NodeRisks { node: member.row.name.clone(), checks: checks.unwrap_or_else(|_| vec![slow()]) }
        });
        join_all(ask).await
    }

    /// The catalog's room; nothing where it is kept nowhere.
    pub(super) async fn catalog_disk(&self) -> ApiResult<Option<CatalogDisk>> {
        let Some(dir) = self.keys.dir() else { return Ok(None) };
        let pragma =
            |c: &rusqlite::Connection, name: &str| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let bytes = self.read(move |c| Ok(pragma(c, "page_count")?.saturating_mul(pragma(c, "page_size")?))).await?;
        let catalog_bytes = u64::try_from(bytes).unwrap_or(0);
        let dir = dir.to_owned();
        match self.seam.offload(move || Space::of(&dir)).await {
            Ok(Space { free_bytes, .. }) => Ok(Some(CatalogDisk { catalog_bytes, free_bytes })),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(internal(error)),
        }
    }
}

/// How far a clock was ahead that told its whole second some time between two moments of ours: most probably in their
/// middle, and in that of its second.
pub(super) fn clock_skew(told: Timestamp, before: Timestamp, after: Timestamp) -> SignedDuration {
    let way = after.duration_since(before);
    told.duration_since(before) + SignedDuration::from_millis(500) - way / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_the_middle_of_the_way_to_it() {
        let at = |ms: i64| Timestamp::from_millisecond(1_000_000_000 + ms).unwrap();
        let skew = |told, before, after| clock_skew(at(told), at(before), at(after)).as_millis();
        assert_eq!(skew(0, 490, 510), 0);
        assert_eq!(skew(0, 0, 1000), 0);
        assert_eq!(skew(90_000, 490, 510), 90_000);
        assert_eq!(skew(-300_000, 490, 510), -300_000);
    }
}
