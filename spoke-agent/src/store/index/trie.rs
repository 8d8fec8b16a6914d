//! A map that is cheap to copy: a hash trie whose copies share all that is the same in both. The writer changes its own
//! copy while readers go on with the one that they have, so a reader sees one state and nobody waits.
//!
//! A node has up to 32 children, of which a bitmap says which are there; five bits of the hash choose one, the highest
//! first. Entries whose hashes agree in all of their 60 bits share a list. (The structure is that of Bagwell, "Ideal
//! Hash Trees", 2001, with the bitmap beside the pointer, so that a step costs one look at memory.)
//!
//! A change copies the nodes on the way to its entry, but for those that no other copy shares.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Bits of the hash that one level uses.
const BITS: u32 = 5;
/// Levels, after which the hash is used up.
const LEVELS: u32 = 12;

/// What the map is of: entries that know their names.
pub trait Entry: Clone {
    /// A name, borrowed.
    type Name<'a>: Hash + Copy;
    /// The name of this entry.
    fn name(&self) -> Self::Name<'_>;
    /// Whether this entry has that name.
    fn is(&self, name: Self::Name<'_>) -> bool;
}

/// The map.
#[derive(Debug, Clone)]
pub struct Trie<T, S = RandomState> {
    root: Node<T>,
    len: usize,
    hasher: S,
}

#[derive(Debug)]
struct Node<T> {
    there: u32,
    children: Arc<[Child<T>]>,
}

#[derive(Debug, Clone)]
enum Child<T> {
    One(T),
    Node(Node<T>),
    /// Entries whose hashes do not differ.
    Many(Arc<[T]>),
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        Self {
            there: self.there,
            children: self.children.clone(),
        }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            there: 0,
            children: Arc::from([]),
        }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self::with_hasher(RandomState::new())
    }
}

impl<T, S> Trie<T, S> {
    /// An empty map.
    pub fn with_hasher(hasher: S) -> Self {
        Self {
            root: Node::default(),
            len: 0,
            hasher,
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Calls `each` with every entry, in no order that means anything.
    pub fn for_each<'a>(&'a self, mut each: impl FnMut(&'a T)) {
        self.root.for_each(&mut each);
    }
}

impl<T: Entry, S: BuildHasher> Trie<T, S> {
    /// A map of these entries at once. Their names must differ.
    pub fn of(entries: Vec<T>, hasher: S) -> Self {
        let hashed = entries.into_iter().map(|entry| {
            let hash = hasher.hash_one(entry.name());
            (hash, entry)
        });
        let mut hashed: Vec<(u64, T)> = hashed.collect();
        hashed.sort_unstable_by_key(|(hash, _)| *hash);
        let count = hashed.len();
        let mut len = 0;
        let root = Node::of(&mut hashed.into_iter(), count, 0, &mut len);
        Self { root, len, hasher }
    }

    /// The entry of this name.
    pub fn get(&self, name: T::Name<'_>) -> Option<&T> {
        let hash = self.hasher.hash_one(name);
        let (mut node, mut level) = (&self.root, 0);
        loop {
            match node.child(hash, level)? {
                Child::One(entry) => return entry.is(name).then_some(entry),
                Child::Many(entries) => return entries.iter().find(|entry| entry.is(name)),
                Child::Node(next) => (node, level) = (next, level + 1),
            }
        }
    }

    /// Sets an entry. Returns the one of that name before.
    pub fn insert(&mut self, entry: T) -> Option<T> {
        let hash = self.hasher.hash_one(entry.name());
        let before = self.root.insert(hash, 0, entry, &self.hasher);
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes the entry of this name, and returns it.
    pub fn remove(&mut self, name: T::Name<'_>) -> Option<T> {
        // A name that is not there must not cost a copy of the way to it.
        self.get(name)?;
        let hash = self.hasher.hash_one(name);
        let removed = self.root.remove(hash, 0, name);
        self.len -= usize::from(removed.is_some());
        removed
    }
}

fn slot(hash: u64, level: u32) -> u32 {
    (hash >> (64 - BITS * (level + 1))) as u32 & 31
}

impl<T> Node<T> {
    /// Where the child for this hash is or would be, and whether it is there.
    fn place(&self, hash: u64, level: u32) -> (usize, bool) {
        let bit = 1 << slot(hash, level);
        let before = self.there & (bit - 1);
        (before.count_ones() as usize, self.there & bit != 0)
    }

    fn child(&self, hash: u64, level: u32) -> Option<&Child<T>> {
        match self.place(hash, level) {
            (at, true) => self.children.get(at),
            (_, false) => None,
        }
    }

    fn for_each<'a>(&'a self, each: &mut impl FnMut(&'a T)) {
        for child in self.children.iter() {
            match child {
                Child::One(entry) => each(entry),
                Child::Node(node) => node.for_each(each),
                Child::Many(entries) => entries.iter().for_each(&mut *each),
            }
        }
    }
}

impl<T: Entry> Node<T> {
    /// A node of the next `count` entries, which come sorted by hash and agree in the bits above this level.
    fn of(
        sorted: &mut std::vec::IntoIter<(u64, T)>,
        count: usize,
        level: u32,
        len: &mut usize,
    ) -> Self {
        let mut left = count;
        let (mut there, mut children) = (0, Vec::with_capacity(count.min(1 << BITS)));
        while left > 0 {
            let next = &sorted.as_slice()[..left];
            let at = slot(next[0].0, level);
            let group = next.partition_point(|(hash, _)| slot(*hash, level) == at);
            there |= 1 << at;
            left -= group;
            let child = match group {
                1 => Child::of(sorted.next().map(|(_, entry)| entry)),
                _ if level + 1 == LEVELS => {
                    Child::of(sorted.by_ref().take(group).map(|(_, entry)| entry))
                }
                _ => {
                    children.push(Child::Node(Self::of(sorted, group, level + 1, len)));
                    continue;
                }
            };
            *len += child.len();
            children.push(child);
        }
        Self {
            there,
            children: children.into(),
        }
    }

    fn insert<S: BuildHasher>(&mut self, hash: u64, level: u32, entry: T, hasher: &S) -> Option<T> {
        let (at, is_there) = self.place(hash, level);
        if !is_there {
            let (before, behind) = self.children.split_at(at);
            let new = std::iter::once(Child::One(entry));
            let all = before.iter().cloned().chain(new);
            self.children = all.chain(behind.iter().cloned()).collect();
            self.there |= 1 << slot(hash, level);
            return None;
        }
        match &mut Arc::make_mut(&mut self.children)[at] {
            Child::Node(node) => node.insert(hash, level + 1, entry, hasher),
            Child::One(old) if old.is(entry.name()) => Some(std::mem::replace(old, entry)),
            child => {
                let mut entries = child.entries();
                let same = entries.iter_mut().find(|old| old.is(entry.name()));
                let before = match same {
                    Some(old) => Some(std::mem::replace(old, entry)),
                    None => {
                        entries.push(entry);
                        None
                    }
                };
                *child = Child::at(level + 1, entries, hasher);
                before
            }
        }
    }

    fn remove(&mut self, hash: u64, level: u32, name: T::Name<'_>) -> Option<T> {
        let (at, is_there) = self.place(hash, level);
        if !is_there {
            return None;
        }
        let child = &mut Arc::make_mut(&mut self.children)[at];
        let (removed, rest) = match child {
            Child::Node(node) => {
                let removed = node.remove(hash, level + 1, name)?;
                (removed, node.only())
            }
            Child::One(_) | Child::Many(_) => {
                let mut left = child.entries();
                let found = left.iter().position(|entry| entry.is(name))?;
                (left.swap_remove(found), Some(Child::of(left)))
            }
        };
        match rest {
            Some(rest) if rest.len() == 0 => {
                let others = self.children.iter().enumerate();
                let others = others.filter(|(other, _)| *other != at);
                self.children = others.map(|(_, child)| child.clone()).collect();
                self.there &= !(1 << slot(hash, level));
            }
            Some(rest) => *child = rest,
            None => {}
        }
        Some(removed)
    }

    /// What this node may be replaced by: no child at all, or its only one that is no node.
    fn only(&self) -> Option<Child<T>> {
        match &*self.children {
            [] => Some(Child::of(None)),
            [Child::Node(_)] => None,
            [child] => Some(child.clone()),
            _ => None,
        }
    }
}

impl<T: Entry> Child<T> {
    /// Entries that no node separates.
    fn of(entries: impl IntoIterator<Item = T>) -> Self {
        let mut entries: Vec<T> = entries.into_iter().collect();
        match entries.len() {
            1 => Self::One(entries.swap_remove(0)),
            _ => Self::Many(entries.into()),
        }
    }

    /// Entries whose hashes agree in the bits above `level`.
    fn at<S: BuildHasher>(level: u32, entries: Vec<T>, hasher: &S) -> Self {
        if level == LEVELS || entries.len() < 2 {
            return Self::of(entries);
        }
        let mut node = Node::default();
        for entry in entries {
            node.insert(hasher.hash_one(entry.name()), level, entry, hasher);
        }
        Self::Node(node)
    }

    fn entries(&self) -> Vec<T> {
        match self {
            Self::One(entry) => vec![entry.clone()],
            Self::Many(entries) => entries.to_vec(),
            Self::Node(_) => Vec::new(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(entries) => entries.len(),
            Self::Node(node) => node.children.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    use std::hash::Hasher;

    #[derive(Debug, Clone, PartialEq)]
    struct Pair(u32, u64);

    impl Entry for Pair {
        type Name<'a> = u32;

        fn name(&self) -> u32 {
            self.0
        }

        fn is(&self, name: u32) -> bool {
            self.0 == name
        }
    }

    /// A hash of as many bits as it says, so that entries meet on every level.
    #[derive(Debug, Clone, Copy)]
    struct Weak {
        mask: u64,
    }

    struct WeakHasher {
        mask: u64,
        state: u64,
    }

    impl BuildHasher for Weak {
        type Hasher = WeakHasher;

        fn build_hasher(&self) -> WeakHasher {
            WeakHasher {
                mask: self.mask,
                state: 0,
            }
        }
    }

    impl Hasher for WeakHasher {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3_9e37);
            }
        }

        fn finish(&self) -> u64 {
            self.state & self.mask
        }
    }

    const MASKS: [u64; 5] = [u64::MAX, 0xf800_0000_0000_0000, 0x1f0, 0xf, 0];

    fn agrees(trie: &Trie<Pair, Weak>, model: &BTreeMap<u32, u64>) {
        assert_eq!(trie.len(), model.len());
        let mut all = BTreeMap::new();
        trie.for_each(|Pair(name, value)| assert_eq!(all.insert(*name, *value), None));
        assert_eq!(&all, model);
        for (name, value) in model {
            assert_eq!(trie.get(*name), Some(&Pair(*name, *value)));
        }
    }

    #[test]
    fn it_is_a_map_and_its_copies_stay_as_they_were() {
        for mask in MASKS {
            let mut random = StdRng::seed_from_u64(mask);
            let mut trie = Trie::with_hasher(Weak { mask });
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for step in 0..4_000_u64 {
                let name = random.random_range(0..150);
                match random.random_range(0..5) {
                    0 | 1 => {
                        let before = model.insert(name, step).map(|value| Pair(name, value));
                        assert_eq!(trie.insert(Pair(name, step)), before);
                    }
                    2 | 3 => {
                        let before = model.remove(&name).map(|value| Pair(name, value));
                        assert_eq!(trie.remove(name), before);
                    }
                    _ => {
                        let there = model.get(&name).map(|value| Pair(name, *value));
                        assert_eq!(trie.get(name), there.as_ref());
                    }
                }
                if step % 500 == 0 {
                    kept.push((trie.clone(), model.clone()));
                }
            }
            kept.push((trie, model));
            kept.iter().for_each(|(trie, model)| agrees(trie, model));
        }
    }

    #[test]
    fn made_at_once_it_is_the_same_map() {
        for mask in MASKS {
            for count in [0, 1, 2, 33, 1_000] {
                let model: BTreeMap<u32, u64> = (0..count).map(|n| (n, u64::from(n) * 7)).collect();
                let pairs = model.iter().map(|(name, value)| Pair(*name, *value));
                let mut trie = Trie::of(pairs.collect(), Weak { mask });
                agrees(&trie, &model);
                (0..count).for_each(|name| assert!(trie.remove(name).is_some()));
                assert!(trie.is_empty());
                assert!(trie.root.children.is_empty());
            }
        }
    }
}
