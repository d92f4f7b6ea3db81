//! Activation functions.

/// The activation function that ends a layer, within the range of its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// None.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
}

impl Act {
    /// Applies it.
    ///
    /// ```
    /// use qat_trainer::spec::Act;
    /// let all = [Act::None, Act::Relu, Act::Relu6].map(|act| [-1.5, 7.0].map(|x| act.apply(x)));
    /// assert_eq!(all, [[-1.5, 7.0], [0.0, 7.0], [0.0, 6.0]]);
    /// ```
    #[must_use]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Act::None => x,
            Act::Relu => x.max(0.0),
            Act::Relu6 => x.clamp(0.0, 6.0),
        }
    }
}
