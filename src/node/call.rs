//! The calls of a node, named: for counting them and for making them fail. Pure.

/// A method of [`crate::node::Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`crate::node::Node::status`].
    Status,
    /// [`crate::node::Node::write_pack`].
    Write,
    /// [`crate::node::Node::protect_pack`].
    Protect,
    /// [`crate::node::Node::holds_pack`].
    Holds,
    /// [`crate::node::Node::read_chunk`].
    Read,
    /// [`crate::node::Node::pack_header`].
    Header,
    /// [`crate::node::Node::list_packs`].
    ListPacks,
    /// [`crate::node::Node::list_chunks`].
    ListChunks,
    /// [`crate::node::Node::drop_pack`].
    Drop,
    /// [`crate::node::Node::replace_pack`].
    Replace,
}

impl Call {
    /// Every call, in the order of the trait.
    pub const ALL: [Self; 10] = [
        Self::Status,
        Self::Write,
        Self::Protect,
        Self::Holds,
        Self::Read,
        Self::Header,
        Self::ListPacks,
        Self::ListChunks,
        Self::Drop,
        Self::Replace,
    ];
}
