//! From what gRPC and etcd say to what a caller must know: was it applied, may it have been, what is to be done.

use super::grpc::{Fault, Status, code};
use crate::error::StoreError;

impl Status {
    /// The session's token is not known any more, or one is needed: log in and ask again. Nothing was done.
    pub fn wants_login(&self) -> bool {
        self.code == code::UNAUTHENTICATED
            || self.message.contains("user name is empty")
            || self.message.contains("revision of auth store is old")
            || self.message.contains("revision in header is old")
    }

    /// This server cannot serve now, and did nothing; another might, or this one in a moment.
    pub fn try_elsewhere(&self) -> bool {
        self.message.contains("etcdserver: no leader") || self.message.contains("too many requests")
    }

    /// A question that has changed nothing may be asked again.
    pub fn ask_again(&self) -> bool {
        self.try_elsewhere() || !self.changed_nothing()
    }

    /// etcd refuses before anything is proposed, or while applying it as a whole.
    fn changed_nothing(&self) -> bool {
        matches!(
            self.code,
            code::INVALID_ARGUMENT
                | code::NOT_FOUND
                | code::ALREADY_EXISTS
                | code::PERMISSION_DENIED
                | code::RESOURCE_EXHAUSTED
                | code::FAILED_PRECONDITION
                | code::OUT_OF_RANGE
                | code::UNIMPLEMENTED
                | code::UNAUTHENTICATED
        ) || self.try_elsewhere()
    }

    /// The lease that was named is gone.
    pub fn lease_gone(&self) -> bool {
        self.code == code::NOT_FOUND && self.message.contains("lease not found")
    }

    fn is_denial(&self) -> bool {
        matches!(self.code, code::PERMISSION_DENIED | code::UNAUTHENTICATED)
            || self.message.contains("authentication failed")
            || self.message.contains("user name is empty")
            || self.message.contains("user name not found")
    }
}

/// What a question that changes nothing has failed with.
pub(super) fn of_read(place: &str, fault: Fault) -> StoreError {
    let place = place.to_owned();
    match fault {
        Fault::NotSent(reason) | Fault::NoAnswer(reason) => StoreError::Unavailable { place, reason },
        Fault::Status(status) => of_status(place, status),
    }
}

/// What a change has failed with.
pub(super) fn of_write(place: &str, fault: Fault) -> StoreError {
    match fault {
        Fault::NoAnswer(reason) => StoreError::Indeterminate { place: place.to_owned(), reason },
        Fault::Status(status) if !status.changed_nothing() => {
            StoreError::Indeterminate { place: place.to_owned(), reason: status.message }
        }
        fault => of_read(place, fault),
    }
}

fn of_status(place: String, status: Status) -> StoreError {
    if status.message.contains("database space exceeded") {
        return StoreError::Full { place };
    }
    if status.is_denial() {
        return StoreError::Denied { place, reason: status.message };
    }
    StoreError::Unavailable { place, reason: status.message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(code: u32, message: &str) -> StoreError {
        of_write("etcd", Fault::Status(Status { code, message: message.to_owned() }))
    }

    #[test]
    fn only_what_etcd_refuses_beforehand_is_certainly_not_applied() {
        for (code, message) in [
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: request timed out, possibly due to previous leader failure"),
            (14, "etcdserver: leader changed"),
            (14, "etcdserver: server stopped"),
            (4, "context deadline exceeded"),
            (1, "context canceled"),
            (2, "raft proposal dropped"),
            (13, "transport is closing"),
        ] {
            assert!(write(code, message).may_have_applied(), "{message}");
        }
        for (code, message) in [
            (14, "etcdserver: no leader"),
            (8, "etcdserver: too many requests"),
            (8, "etcdserver: mvcc: database space exceeded"),
            (3, "etcdserver: duplicate key given in txn request"),
            (3, "etcdserver: request is too large"),
            (7, "etcdserver: permission denied"),
            (16, "etcdserver: invalid auth token"),
        ] {
            assert!(!write(code, message).may_have_applied(), "{message}");
        }
        assert!(of_write("etcd", Fault::NoAnswer("cut".into())).may_have_applied());
        assert!(!of_write("etcd", Fault::NotSent("refused".into())).may_have_applied());
        assert!(!of_read("etcd", Fault::NoAnswer("cut".into())).may_have_applied());
    }

    #[test]
    fn fullness_and_denial_are_told_apart() {
        assert!(matches!(write(8, "etcdserver: mvcc: database space exceeded"), StoreError::Full { .. }));
        let denial = "etcdserver: authentication failed, invalid user ID or password";
        assert!(matches!(write(3, denial), StoreError::Denied { .. }));
        assert!(matches!(write(7, "etcdserver: permission denied"), StoreError::Denied { .. }));
        assert!(matches!(write(9, "etcdserver: corrupt"), StoreError::Unavailable { .. }));
    }
}
