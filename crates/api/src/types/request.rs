//! Bodies of requests that change something. Field names are Patroni's.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /switchover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverBody {
    /// The leader to move away from. Required, so that a repeated request does not move the primary twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The member to move to; the best one when absent.
    #[serde(default, alias = "member", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// When to do it (RFC 3339, with time zone); at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

/// `POST /failover`. With `leader` it is a switchover, as in Patroni.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailoverBody {
    /// The leader to move away from; makes it a switchover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The member to move to. Required.
    #[serde(default, alias = "member", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// Refused: a failover cannot be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
    /// Give up what members that are gone alone had acknowledged. Only while nobody leads; what can be kept is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_data_loss: bool,
}

/// `POST /restart`, as it arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartBody {
    /// When to do it (RFC 3339, with time zone); at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Only when the member has this role: `primary`, `standby_leader` or `replica`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Only when PostgreSQL is older than this (`15.2`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// Seconds (`30`, `"30s"`, `"2min"`) after which the restart counts as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub timeout: Option<Value>,
    /// Only when a parameter waits for a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_pending: Option<bool>,
}

/// A restart, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartRequest {
    /// When to do it; at once when absent.
    pub schedule: Option<jiff::Timestamp>,
    /// Only when the member has this role: `primary`, `standby_leader` or `replica`.
    pub role: Option<String>,
    /// Only when PostgreSQL is older than this version, as a number (`150002`).
    pub older_than: Option<u32>,
    /// How long the restart may take.
    pub timeout: Option<std::time::Duration>,
    /// Only when a parameter waits for a restart.
    pub only_pending: bool,
}

/// `POST /reinitialize`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReinitializeBody {
    /// Cancel what the member is doing now.
    #[serde(default)]
    pub force: bool,
    /// Copy from the leader, whatever `clonefrom` says.
    #[serde(default)]
    pub from_leader: bool,
}
