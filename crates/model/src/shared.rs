//! Values that states share, with their hash: a step changes one or two members of a state, and only those are hashed anew.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A shared value. Two that are sealed are told apart by 64 bits of their hash, as the search tells states apart.
#[derive(Clone)]
pub struct Shared<T> {
    value: Arc<T>,
    /// 0 while it is being changed.
    hash: u64,
}

impl<T> Shared<T> {
    /// Not sealed yet.
    pub fn new(value: T) -> Shared<T> {
        Shared { value: Arc::new(value), hash: 0 }
    }

    /// Its hash is known.
    pub fn sealed(&self) -> bool {
        self.hash != 0
    }
}

impl<T: Clone> Shared<T> {
    /// To be changed, and then sealed.
    pub fn edit(&mut self) -> &mut T {
        self.hash = 0;
        Arc::make_mut(&mut self.value)
    }
}

impl<T: Hash> Shared<T> {
    /// Nothing more is changed.
    pub fn seal(&mut self) {
        if self.hash == 0 {
            let mut hasher = DefaultHasher::new();
            self.value.hash(&mut hasher);
            self.hash = hasher.finish().max(1);
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match self.hash {
            0 => {
                let mut sealed = DefaultHasher::new();
                self.value.hash(&mut sealed);
                hasher.write_u64(sealed.finish().max(1));
            }
            hash => hasher.write_u64(hash),
        }
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Shared<T>) -> bool {
        match (self.hash, other.hash) {
            (0, _) | (_, 0) => Arc::ptr_eq(&self.value, &other.value) || self.value == other.value,
            (mine, theirs) => mine == theirs,
        }
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}
