//! One shard's numbers of one scope.
