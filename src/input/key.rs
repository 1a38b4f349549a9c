//! Short pieces of text as numbers, which is how they are compared, hashed and cut.

/// What keeps the first so many bytes of a block; reading it is faster than shifting 16 bytes is.
static FIRST_BYTES: [u128; 17] = {
    let mut masks = [0; 17];
    let mut len = 1;
    while len < masks.len() {
        masks[len] = u128::MAX >> (128 - 8 * len);
        len += 1;
    }
    masks
};

/// The first bytes of `block`, up to 16, as their [`short_key`].
#[inline]
pub(super) fn first_bytes(block: u128, len: usize) -> u128 {
    block & FIRST_BYTES.get(len).copied().unwrap_or(u128::MAX)
}

/// Up to 16 bytes as one number, as if zeros followed them; `None` for more.
///
/// Written as loads of fixed size that overlap, because copying a few bytes of unknown number into
/// a buffer is a call that takes longer than all else in a look-up.
#[inline]
pub(super) fn short_key(bytes: &[u8]) -> Option<u128> {
    let len = bytes.len();
    if len > 16 {
        return None;
    }
    if let (Some(&first), Some(&last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = u128::from(u64::from_le_bytes(last));
        return Some(u128::from(u64::from_le_bytes(first)) | last << (8 * (len - 8)));
    }
    if let (Some(&first), Some(&last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = u64::from(u32::from_le_bytes(last));
        return Some(u128::from(
            u64::from(u32::from_le_bytes(first)) | last << (8 * (len - 4)),
        ));
    }
    let shifted = |at: usize| {
        bytes
            .get(at)
            .map_or(0, |&byte| u128::from(byte) << (8 * at))
    };
    Some(shifted(0) | shifted(1) | shifted(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::pretoken::tests::Random;

    #[test]
    fn a_short_key_is_the_bytes_and_zeros() {
        let mut random = Random(4);
        for len in 0..=16 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| random.below(256).to_le_bytes()[0])
                .collect();
            let mut block = [0; 16];
            block[..len].copy_from_slice(&bytes);
            assert_eq!(short_key(&bytes), Some(u128::from_le_bytes(block)));
            if len > 0 {
                let mut longer = [0xff; 16];
                longer[..len].copy_from_slice(&bytes);
                let longer = u128::from_le_bytes(longer);
                assert_eq!(Some(first_bytes(longer, len)), short_key(&bytes));
            }
        }
        assert_eq!(short_key(&[0; 17]), None);
    }
}
