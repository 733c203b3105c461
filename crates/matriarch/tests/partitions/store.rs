//! A store in trouble. The primary goes on without it as long as its voters stand by it, or under the empty rule all
//! members; nobody is promoted meanwhile.
