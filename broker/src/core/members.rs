//! What members of a group say and are told, and what the group keeps of each. Data only.

use bytes::Bytes;

use super::{ErrorCode, Token};

/// A request to join.
#[derive(Debug, Clone)]
pub struct Join {
    /// Empty for a member that has no id yet.
    pub member: String,
    /// Static membership id.
    pub instance: Option<String>,
    /// Client id, for people and as the first part of the member id.
    pub client: String,
    /// Session time-out, milliseconds.
    pub session_timeout: i64,
    /// How long a rebalance may wait for this member, milliseconds.
    pub rebalance_timeout: i64,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// Assignors and their metadata, in order of preference.
    pub protocols: Vec<(String, Bytes)>,
    /// Whether the client understands that a new member first gets an id only.
    pub wants_id_first: bool,
    /// Whether the client, when it comes back as the leader of a stable group, can be told not to assign anew.
    pub can_skip_assignment: bool,
}

/// Outcome of a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Generation.
    pub generation: i32,
    /// Chosen assignor.
    pub protocol: String,
    /// Member id of the leader.
    pub leader: String,
    /// The member's own id.
    pub member: String,
    /// For the leader only: (member id, instance id, metadata) of every member.
    pub members: Vec<(String, Option<String>, Bytes)>,
    /// Whether the leader is to keep the assignment there is.
    pub skip_assignment: bool,
}

/// Why a join was refused, with the member id the client is to use next (if one was given to it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRefused {
    /// Error for the client.
    pub code: ErrorCode,
    /// Member id, empty if there is none.
    pub member: String,
}

/// A member as told to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Member id.
    pub id: String,
    /// Static membership id.
    pub instance: Option<String>,
    /// Client id.
    pub client: String,
    /// Subscription, under the chosen assignor.
    pub metadata: Bytes,
    /// Assignment.
    pub assignment: Bytes,
}

/// A member as its group keeps it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) instance: Option<String>,
    pub(super) client: String,
    pub(super) session_timeout: i64,
    pub(super) rebalance_timeout: i64,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    pub(super) joining: Option<Token>,
    pub(super) syncing: Option<Token>,
    /// Whether the member asked for its assignment in this generation.
    pub(super) synced: bool,
    pub(super) alive_until: i64,
}

impl Member {
    /// Its metadata under an assignor; empty if it does not know the assignor.
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }
}

/// Whether a consumer's subscription names a topic. One that cannot be read may name any.
pub(super) fn subscribes_to(metadata: &Bytes, topic: &str) -> bool {
    // Version, then the topics: a count and as many strings; what follows does not matter here.
    fn string(rest: &mut &[u8]) -> Option<String> {
        let length = i16::from_be_bytes(*rest.first_chunk()?);
        let length = usize::try_from(length).ok()?;
        let text = rest.get(2..2 + length)?;
        *rest = &rest[2 + length..];
        String::from_utf8(text.to_vec()).ok()
    }
    let read = || -> Option<bool> {
        let mut rest = metadata.get(2..)?;
        let count = i32::from_be_bytes(*rest.first_chunk()?);
        rest = &rest[4..];
        let mut found = false;
        for _ in 0..count {
            found |= string(&mut rest)? == topic;
        }
        Some(found)
    };
    read().unwrap_or(true)
}
