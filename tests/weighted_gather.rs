//! Are rows gathered right, and do their gradients reach the table and the weights?

use candle_core::{DType, Device, Result, Tensor, Var, WithDType};
use candle_radfoam::{
    ops::{weighted_gather, weighted_gather_many},
    rng::{Rng, Stream},
};

fn tensor<T: WithDType>(values: &[T]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

fn random(shape: impl Into<candle_core::Shape>, step: u64) -> Tensor {
    let (shape, rng) = (shape.into(), Rng::new(2, Stream::Init, step));
    let values: Vec<f64> = (0..shape.elem_count() as u32).map(|i| f64::from(rng.uniform(i)) - 0.5).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn random_indices(rows: usize, num: u32) -> Vec<u32> {
    let rng = Rng::new(3, Stream::Init, 0);
    (0..num).map(|k| rng.below(k, rows as u64) as u32).collect()
}

#[test]
fn forward_is_index_select_times_weight_in_every_dtype() -> Result<()> {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::U8] {
        let result = if dtype == DType::U8 { DType::F32 } else { dtype };
        for (rows, width, num) in [
            (1, 1, 5),
            (17, 2, 300),
            (17, 3, 300),
            (9, 4, 90),
            (30, 6, 99),
            (30, 8, 99),
            (300, 9, 10_007),
            (40, 13, 999),
        ] {
            let table = ((random((rows, width), 0) + 0.5)? * 200.0)?.to_dtype(dtype)?;
            let indices = tensor(&random_indices(rows, num));
            let weights = random(num as usize, 1).to_dtype(result)?;
            let plain = table.index_select(&indices, 0)?.to_dtype(result)?;
            let found = weighted_gather(&table, &indices, None)?;
            assert_eq!(found.dtype(), result);
            assert_eq!(values(&found)?, values(&plain)?, "{dtype:?} [{rows}, {width}]");
            // One product, rounded once, in Candle's half types as here.
            let expected = plain.broadcast_mul(&weights.unsqueeze(1)?)?;
            let found = weighted_gather(&table, &indices, Some(&weights))?;
            assert_eq!(values(&found)?, values(&expected)?, "weighted {dtype:?} [{rows}, {width}]");
        }
    }
    Ok(())
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// A loss that is not linear in the rows.
fn loss(table: &Tensor, indices: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let rows = weighted_gather(table, indices, weights)?;
    let factors = random(rows.shape(), 9);
    (rows.sqr()? * factors)?.sum_all()
}

/// `(f(x + h) - f(x - h)) / 2h` for every element of `x`.
fn central_differences(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<f64>> {
    const STEP: f64 = 1e-5;
    let start = values(x)?;
    let at = |i: usize, h: f64| -> Result<f64> {
        let mut moved = start.clone();
        moved[i] += h;
        f(&Tensor::from_vec(moved, x.shape(), &Device::Cpu)?)?.to_scalar()
    };
    (0..start.len()).map(|i| Ok((at(i, STEP)? - at(i, -STEP)?) / (2.0 * STEP))).collect()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    // The loss is quadratic, so the differences are exact but for rounding: 1e-16 / 1e-5 times its size.
    let wrong = |(found, expected): (&f64, &f64)| (found - expected).abs() > 1e-8;
    let wrong: Vec<_> = found.iter().zip(expected).enumerate().filter(|(_, pair)| wrong(*pair)).collect();
    assert!(found.len() == expected.len() && wrong.is_empty(), "{what}: {wrong:?}");
}

#[test]
fn gradients_are_the_central_differences() -> Result<()> {
    // Random with duplicates and rows that nobody reads; ascending; all the same.
    let batches = [random_indices(12, 20), vec![0, 0, 3, 3, 3, 11], vec![5; 7], vec![11]];
    for indices in batches {
        let (table, weights) = (Var::from_tensor(&random((12, 3), 4))?, Var::from_tensor(&random(indices.len(), 5))?);
        let index = tensor(&indices);

        let grads = loss(&table, &index, Some(&weights))?.backward()?;
        let grad = |var: &Var| values(grads.get(var).expect("a gradient"));
        let expected = central_differences(&table, |table| loss(table, &index, Some(&weights)))?;
        assert_close("table", &grad(&table)?, &expected);
        let expected = central_differences(&weights, |weights| loss(&table, &index, Some(weights)))?;
        assert_close("weights", &grad(&weights)?, &expected);

        let grads = loss(&table, &index, None)?.backward()?;
        let expected = central_differences(&table, |table| loss(table, &index, None))?;
        assert_close("table without weights", &values(grads.get(&table).expect("a gradient"))?, &expected);
    }
    Ok(())
}

#[test]
fn gradients_pass_through_tracked_arguments_and_broadcast_seeds() -> Result<()> {
    let (table, weights) = (Var::from_tensor(&random((6, 2), 4))?, Var::from_tensor(&random(4, 5))?);
    let indices = tensor(&[5u32, 0, 5, 2]);
    // Not leaves; and the gradient that sum_all sends back is a broadcast one.
    let rows = weighted_gather(&(table.as_tensor() * 2.0)?, &indices, Some(&(weights.as_tensor() * 3.0)?))?;
    let grads = rows.sum_all()?.backward()?;
    let (t, w) = (values(&table)?, values(&weights)?);
    let mut expected = vec![0.0; 12];
    for (row, w) in [(5, w[0]), (0, w[1]), (5, w[2]), (2, w[3])] {
        expected[2 * row] += 6.0 * w;
        expected[2 * row + 1] += 6.0 * w;
    }
    assert_close("table", &values(grads.get(&table).expect("a gradient"))?, &expected);
    let expected: Vec<f64> = [5, 0, 5, 2].iter().map(|&row: &usize| 6.0 * (t[2 * row] + t[2 * row + 1])).collect();
    assert_close("weights", &values(grads.get(&weights).expect("a gradient"))?, &expected);
    Ok(())
}

#[test]
fn several_tables_are_one_table_each() -> Result<()> {
    // Ascending and not; widths with and without a body of their own; another number of rows.
    for indices in [vec![0, 0, 3, 3, 3, 11], random_indices(12, 20)] {
        let tables: Vec<Var> = [(12, 6), (12, 3), (40, 5)]
            .into_iter()
            .zip(0..)
            .map(|(shape, step)| Var::from_tensor(&random(shape, step)))
            .collect::<Result<_>>()?;
        let weights = Var::from_tensor(&random(indices.len(), 5))?;
        let index = tensor(&indices);
        let loss = |rows: Vec<Tensor>| {
            let parts = rows.iter().map(|rows| (rows.sqr()? * random(rows.shape(), 9))?.sum_all());
            parts.reduce(|a, b| a? + b?).expect("a table")
        };
        let together: Vec<&Tensor> = tables.iter().map(|table| table.as_tensor()).collect();
        let together = weighted_gather_many(&together, &index, Some(&weights))?;
        let apart: Result<Vec<Tensor>> =
            tables.iter().map(|table| weighted_gather(table, &index, Some(&weights))).collect();
        for (together, apart) in together.iter().zip(apart.as_ref().expect("rows")) {
            assert_eq!(values(together)?, values(apart)?);
        }
        let (together, apart) = (loss(together)?.backward()?, loss(apart?)?.backward()?);
        for var in tables.iter().chain([&weights]) {
            let grad = |grads: &candle_core::backprop::GradStore| values(grads.get(var).expect("a gradient"));
            assert_eq!(grad(&together)?, grad(&apart)?);
        }
    }
    Ok(())
}

#[test]
fn bytes_have_no_gradient_but_their_weights_do() -> Result<()> {
    let table = Tensor::new(&[[10u8, 20], [30, 40]], &Device::Cpu)?;
    let weights = Var::new(&[1.0f32, 0.5, 0.25], &Device::Cpu)?;
    let rows = weighted_gather(&table, &tensor(&[1u32, 0, 1]), Some(&weights))?;
    assert_eq!(rows.to_vec2::<f32>()?, [[30.0, 40.0], [5.0, 10.0], [7.5, 10.0]]);
    let grads = rows.sum_all()?.backward()?;
    assert_eq!(grads.get(&weights).expect("a gradient").to_vec1::<f32>()?, [70.0, 30.0, 70.0]);
    Ok(())
}

#[test]
fn half_gradients_are_summed_in_single_precision() -> Result<()> {
    // In f16 a running sum of ones stops at 2048.
    let table = Var::zeros((1, 1), DType::F16, &Device::Cpu)?;
    let rows = weighted_gather(&table, &tensor(&[0u32; 5000]), None)?;
    let seed = Tensor::ones((5000, 1), DType::F32, &Device::Cpu)?;
    let grads = (rows.to_dtype(DType::F32)? * seed)?.sum_all()?.backward()?;
    assert_eq!(values(grads.get(&table).expect("a gradient"))?, [5000.0]);
    Ok(())
}

#[test]
fn gradients_have_the_same_bits_on_any_number_of_threads() -> Result<()> {
    let table = Var::from_tensor(&random((300, 9), 4).to_dtype(DType::F32)?)?;
    let indices = tensor(&random_indices(300, 50_000));
    let weights = random(50_000, 6).to_dtype(DType::F32)?;
    let grad = |threads: usize| -> Result<Vec<u32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let grads = pool.install(|| weighted_gather(&table, &indices, Some(&weights))?.sqr()?.sum_all()?.backward())?;
        let grad = grads.get(&table).expect("a gradient").flatten_all()?.to_vec1::<f32>()?;
        Ok(grad.iter().map(|v| v.to_bits()).collect())
    };
    let expected = grad(1)?;
    assert!(grad(2)? == expected && grad(5)? == expected);
    Ok(())
}

#[test]
fn parts_and_empty_batches() -> Result<()> {
    let table = Tensor::arange(0f32, 12.0, &Device::Cpu)?.reshape((6, 2))?.narrow(0, 2, 3)?;
    let indices = tensor(&[9u32, 2, 0]).narrow(0, 1, 2)?;
    assert_eq!(weighted_gather(&table, &indices, None)?.to_vec2::<f32>()?, [[8.0, 9.0], [4.0, 5.0]]);
    assert_eq!(weighted_gather(&table, &tensor::<u32>(&[]), None)?.dims(), [0, 2]);
    Ok(())
}

#[test]
fn wrong_arguments_are_refused() -> Result<()> {
    let table = Tensor::ones((3, 2), DType::F32, &Device::Cpu)?;
    let indices = tensor(&[0u32, 2]);
    let cases = [
        ("index", weighted_gather(&table, &tensor(&[0u32, 3]), None), "below 3"),
        ("skip index", weighted_gather(&table, &tensor(&[u32::MAX]), None), "below 3"),
        ("index dtype", weighted_gather(&table, &tensor(&[0i64]), None), "U32"),
        ("table rank", weighted_gather(&table.flatten_all()?, &indices, None), "[N, C]"),
        ("table dtype", weighted_gather(&table.to_dtype(DType::I64)?, &indices, None), "I64"),
        ("table layout", weighted_gather(&table.t()?, &tensor(&[0u32]), None), "contiguous"),
        ("weights length", weighted_gather(&table, &indices, Some(&tensor(&[1.0f32]))), "[2]"),
        ("weights dtype", weighted_gather(&table, &indices, Some(&tensor(&[1.0f64, 1.0]))), "F64"),
    ];
    for (what, result, says) in cases {
        let message = result.map(|_| ()).expect_err(what).to_string();
        assert!(message.contains(says), "{what}: {message}");
    }
    Ok(())
}
