//! Rows in the integer engine's order, in which adaptive quantisers form their groups, against rows in torch's.

/// For each position of a row in the engine's order, its position in torch's.
#[derive(Debug)]
pub(super) struct Order(Vec<usize>);

impl Order {
    /// `None` where the orders agree.
    pub(super) fn new(order: &[usize]) -> Option<Self> {
        let differs = order.iter().enumerate().any(|(i, &at)| i != at);
        differs.then(|| Self(order.to_vec()))
    }

    /// Rows of torch's order in the engine's.
    pub(super) fn gather(&self, torch: &[f32]) -> Vec<f32> {
        torch.chunks_exact(self.0.len()).flat_map(|row| self.0.iter().map(|&i| row[i])).collect()
    }

    /// Rows of the engine's order into torch's.
    pub(super) fn scatter(&self, engine: &[f32], torch: &mut [f32]) {
        let n = self.0.len();
        for (row, out) in engine.chunks_exact(n).zip(torch.chunks_exact_mut(n)) {
            self.0.iter().zip(row).for_each(|(&i, &x)| out[i] = x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattering_undoes_gathering() {
        assert!(Order::new(&[0, 1, 2]).is_none());
        let order = Order::new(&[2, 0, 1]).unwrap();
        let torch = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let engine = order.gather(&torch);
        assert_eq!(engine, [3.0, 1.0, 2.0, 6.0, 4.0, 5.0]);
        let mut back = [0.0; 6];
        order.scatter(&engine, &mut back);
        assert_eq!(back, torch);
    }
}
