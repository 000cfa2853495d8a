"""Both quadratic problems of Phase 2 against dense solvers in float64."""

import math
import subprocess
import sys

import pytest
import torch
from scipy.optimize import nnls
from stationary import coloured, filtered

from kernelfusion_plugin.core import quadratic
from kernelfusion_plugin.core.degradation import BORDERS, Degradation
from kernelfusion_plugin.core.kernels import gaussian, l_shape, motion
from kernelfusion_plugin.core.quadratic import (
    covariance_lags,
    data_step,
    fit_kernel,
    normal_equations,
    roughness,
    spectral_bound,
    window_covariance,
)

SIZES = [(1, 3), (1, 4), (2, 5), (2, 6), (3, 7), (3, 8), (4, 8), (4, 9)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_kernel(size, seed=1):
    k = random(size, size, seed=seed).abs()
    return k / k.sum()


def matrix(degradation, k, lr_size):
    """A, one column per pixel of x, from the forward model alone."""
    height, width = degradation.hr_size(lr_size)
    eye = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    return degradation.forward(eye, k).reshape(height * width, -1).T


def normals(degradation, k_true, lr_size, seed=0):
    """(G, b, x) of a random picture seen through k_true."""
    x = random(1, 3, *degradation.hr_size(lr_size), seed=seed)
    return *normal_equations(degradation, x, degradation.forward(x, k_true)), x


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('s', 'size'), SIZES)
def test_data_step_against_a_dense_solve(s, size, border):
    degradation, k = Degradation(s, size, border), random_kernel(size)
    lr_size = (4, 5)
    A = matrix(degradation, k, lr_size)
    y, x0 = random(2, 1, *lr_size, seed=2), random(2, 1, *degradation.hr_size(lr_size), seed=3)
    for rho in (0.01, 1.0):
        expected = torch.linalg.solve(A.T @ A + rho * torch.eye(A.shape[1], dtype=torch.float64),
                                      A.T @ y.reshape(2, -1).T + rho * x0.reshape(2, -1).T)
        x = data_step(degradation, k, y, x0, rho, iterations=100, tolerance=1e-12)
        torch.testing.assert_close(x.reshape(2, -1).T, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('border', BORDERS)
def test_data_step_where_only_some_of_y_counts_against_a_dense_solve(border):
    degradation, k, lr_size = Degradation(2, 5, border), random_kernel(5), (4, 5)
    A = matrix(degradation, k, lr_size)
    y, x0 = random(1, 1, *lr_size, seed=2), random(1, 1, *degradation.hr_size(lr_size), seed=3)
    counting = random(1, 1, *lr_size, seed=4) > 0
    assert 0 < int(counting.sum()) < counting.numel()
    A, seen = A[counting.flatten()], y[counting]
    expected = torch.linalg.solve(A.T @ A + 0.1 * torch.eye(A.shape[1], dtype=torch.float64),
                                  A.T @ seen + 0.1 * x0.flatten())
    x = data_step(degradation, k, y, x0, 0.1, iterations=100, tolerance=1e-12, counting=counting)
    torch.testing.assert_close(x.flatten(), expected, rtol=1e-8, atol=1e-8)


def test_data_step_of_an_image_that_fits_changes_nothing():
    degradation, k = Degradation(4, 9), random_kernel(9)
    x0 = random(1, 3, *degradation.hr_size((4, 4)))
    for rho in (1e-9, 1.0):
        assert torch.equal(data_step(degradation, k, degradation.forward(x0, k), x0, rho), x0)


def test_data_step_at_extremes_of_rho():
    """rho -> 0 interpolates y, rho -> infinity keeps x0."""
    degradation, k = Degradation(2, 6), gaussian(6, sigmas=0.7)
    y, x0 = random(1, 3, 6, 7).float(), random(1, 3, *degradation.hr_size((6, 7)), seed=1).float()
    x = data_step(degradation, k, y, x0, 1e-8, iterations=100, tolerance=1e-7)
    torch.testing.assert_close(degradation.forward(x, k), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(data_step(degradation, k, y, x0, 1e8), x0, rtol=1e-6, atol=1e-6)
    start = (degradation.forward(x0, k) - y).norm()
    errors = [(degradation.forward(data_step(degradation, k, y, x0, rho), k) - y).norm() / start
              for rho in (1e-3, 1e-2, 1e-1, 1.0)]
    assert errors == sorted(errors) and errors[0] < 0.1 and errors[-1] < 1


def test_data_step_stops_at_its_tolerance_or_after_its_iterations(monkeypatch):
    degradation, k = Degradation(2, 6), random_kernel(6)
    y, x0 = random(1, 1, 8, 8), random(1, 1, *degradation.hr_size((8, 8)), seed=1)
    calls = []
    plain = Degradation.normal_operator

    def counting(self, k):
        normal = plain(self, k)
        return lambda z: calls.append(1) or normal(z)

    monkeypatch.setattr(Degradation, 'normal_operator', counting)
    counts = []
    for iterations, tolerance in [(3, 1e-9), (60, 0.3), (60, 1e-4)]:
        calls.clear()
        data_step(degradation, k, y, x0, 0.1, iterations, tolerance)
        counts.append(len(calls))
    assert counts[0] == 3 and 0 < counts[1] < counts[2] < 60


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('s', 'size'), [*SIZES, (4, 24), (4, 31), (1, 1), (3, 3)])
def test_normal_operator_is_forward_of_adjoint(s, size, border):
    degradation, k = Degradation(s, size, border), random(size, size, seed=1)
    normal = degradation.normal_operator(k)
    for lr_size in [(3, 4), (9, 8)]:
        z = random(2, 3, *lr_size, seed=2)
        torch.testing.assert_close(normal(z), degradation.forward(degradation.adjoint(z, k), k), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('s', 'size'), [(1, 3), (2, 5), (3, 8), (4, 9)])
def test_normal_equations_are_those_of_the_windows(s, size, border, monkeypatch):
    degradation = Degradation(s, size, border)
    x, y = random(2, 3, *degradation.hr_size((7, 5))), random(2, 3, 7, 5, seed=1)
    U = degradation.windows(x)
    heights = []
    windows = Degradation.windows

    def spy(self, x):
        heights.append((x.shape[-2] - self.kernel_size) // self.scale + 1)
        return windows(self, x)

    monkeypatch.setattr(Degradation, 'windows', spy)
    row = 4 * size ** 2 * y[..., 0, :].numel()  # bytes of one row of LR pixels
    for budget, blocks in [(64 * 2 ** 20, [7]), (3 * row, [3, 3, 1]), (1, [1] * 7)]:
        monkeypatch.setattr(quadratic, 'WINDOW_BYTES', budget)
        heights.clear()
        G, b = normal_equations(degradation, x, y)
        assert heights == blocks
        torch.testing.assert_close(G, U.T @ U / y.numel())
        torch.testing.assert_close(b, U.T @ y.reshape(-1) / y.numel())


@pytest.mark.parametrize('panel', [1, 24, 25, 7])
def test_panels_of_any_width_make_the_whole_normal_matrix(panel, monkeypatch):
    monkeypatch.setattr(quadratic, 'PANEL', panel)
    degradation = Degradation(2, 5)
    x, y = random(2, 3, *degradation.hr_size((7, 5))), random(2, 3, 7, 5, seed=1)
    U = degradation.windows(x)
    G, b = normal_equations(degradation, x, y)
    torch.testing.assert_close(G, U.T @ U / y.numel())
    torch.testing.assert_close(b, U.T @ y.reshape(-1) / y.numel())


def test_weighted_normal_equations_in_plain_form(monkeypatch):
    """Σ w_i u_i u_iᵀ / n and Σ w_i u_i y_i / n over all values, each pixel's weight for its channels, mean 1."""
    degradation = Degradation(2, 5)
    x, y = random(2, 3, *degradation.hr_size((6, 4))), random(2, 3, 6, 4, seed=1)
    weights = random(2, 1, 6, 4, seed=2).abs() + 0.1
    U = degradation.windows(x)
    w = (weights / weights.mean()).expand(y.shape).reshape(-1)
    G, b = normal_equations(degradation, x, y, 7 * weights)
    torch.testing.assert_close(G, U.T @ torch.diag(w) @ U / len(w))
    torch.testing.assert_close(b, U.T @ (w * y.reshape(-1)) / len(w))
    monkeypatch.setattr(quadratic, 'WINDOW_BYTES', 1)  # one row at a time
    torch.testing.assert_close(normal_equations(degradation, x, y, weights), (G, b))
    equal = normal_equations(degradation, x, y, torch.full_like(weights, 0.3))
    torch.testing.assert_close(equal, normal_equations(degradation, x, y))


@pytest.mark.parametrize(('s', 'size'), [(1, 1), (2, 5)])
def test_weights_leave_the_picture_as_it_was(s, size):
    """Of windows of one pixel the matrix may be the picture's own memory."""
    degradation = Degradation(s, size)
    x, y = random(1, 3, *degradation.hr_size((6, 4))), random(1, 3, 6, 4, seed=1)
    before = x.clone()
    normal_equations(degradation, x, y, random(1, 1, 6, 4, seed=2).abs() + 0.1)
    assert torch.equal(x, before)


def ridged(G, ridge):
    return G + ridge * G.diagonal().mean() * torch.eye(len(G), dtype=G.dtype)


@pytest.mark.parametrize(('s', 'size'), [(1, 3), (2, 5), (4, 8)])
def test_fit_kernel_against_nnls(s, size):
    """kᵀHk - 2bᵀk = ||Lᵀk - L⁻¹b||² + const with H = LLᵀ: scipy's active set finds the same minimum."""
    degradation, ridge = Degradation(s, size), 0.05
    x = random(1, 3, *degradation.hr_size((9, 8)))
    y = degradation.forward(x, random_kernel(size)) + random(1, 3, 9, 8, seed=5)  # noise: some taps become 0
    G, b = normal_equations(degradation, x, y)
    L = torch.linalg.cholesky(ridged(G, ridge))
    expected, _ = nnls(L.T.numpy(), torch.linalg.solve_triangular(L, b[:, None], upper=False)[:, 0].numpy())
    assert (expected == 0).any() and (expected > 0).any()
    k = fit_kernel(G, b, torch.full((size, size), 1 / size ** 2, dtype=torch.float64), ridge, iterations=3000)
    torch.testing.assert_close(k.reshape(-1), torch.from_numpy(expected / expected.sum()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('size', [1, 2, 9, 40])
def test_spectral_bound_lies_above_the_largest_eigenvalue_and_near_it(size):
    for scale in (1e-12, 1.0, 1e9):
        U = random(3 * size, size, seed=size)
        H = scale * (U.T @ U - 1.5 * size * torch.eye(size, dtype=U.dtype))  # eigenvalues of both signs
        eigenvalues = torch.linalg.eigvalsh(H)
        largest, bound = eigenvalues.abs().max(), spectral_bound(H)
        torch.testing.assert_close(bound, eigenvalues.abs().pow(8).sum().pow(1 / 8))
        assert largest * (1 - 1e-12) <= bound <= largest * size ** (1 / 8) * (1 + 1e-12)


def test_a_fitted_kernel_has_the_same_bits_in_every_process():
    """At odd K too, where LAPACK's eigenvalues differ from run to run."""
    code = (
        'import hashlib, torch; torch.set_num_threads(2)\n'
        'from kernelfusion_plugin.core.quadratic import fit_kernel\n'
        'U = torch.randn(2000, 625, generator=torch.Generator().manual_seed(0))\n'
        'k = fit_kernel(U.T @ U / 2000, U.mean(0), torch.full((25, 25), 1 / 625), 1e-3, 0.01)\n'
        'print(hashlib.sha256(k.numpy().tobytes()).hexdigest())')
    outputs = {subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
               for _ in range(3)}
    assert len(outputs) == 1


def plain_roughness(weights_of, floor=0.3):
    """R of J(k) = Σ (k_i - k_j)² / (K² (w_i + w_j) / 2 + floor), pair by pair; zero beyond the grid."""
    K = len(weights_of)
    w = torch.zeros(K + 2, K + 2, dtype=torch.float64)
    w[1:-1, 1:-1] = weights_of
    R = torch.zeros(K * K, K * K, dtype=torch.float64)
    for i in range(K + 2):
        for j in range(K + 2):
            for di, dj in ((0, 1), (1, 0)):
                if i + di > K + 1 or j + dj > K + 1:
                    continue
                share = 1 / (K * K * (w[i, j] + w[i + di, j + dj]) / 2 + floor)
                both = [(a - 1) * K + b - 1 for a, b in ((i, j), (i + di, j + dj)) if 1 <= a <= K and 1 <= b <= K]
                for n in both:
                    R[n, n] += share
                if len(both) == 2:
                    R[both[0], both[1]] -= share
                    R[both[1], both[0]] -= share
    return R


@pytest.mark.parametrize('size', [1, 2, 5, 8])
@pytest.mark.parametrize('floor', [0.3, 0.01])
def test_roughness_is_the_sum_over_neighbours(size, floor):
    k, other = random_kernel(size), random(size, size, seed=3)
    R = roughness(k, floor)
    torch.testing.assert_close(R, plain_roughness(k, floor), rtol=1e-12, atol=1e-12)
    assert torch.equal(R, R.T) and torch.linalg.eigvalsh(R)[0] > 0  # zero beyond: not even a plateau is free
    padded = torch.zeros(size + 2, size + 2, dtype=torch.float64)
    padded[1:-1, 1:-1] = other
    wide = torch.zeros_like(padded)
    wide[1:-1, 1:-1] = k
    J = sum((padded.diff(dim=d) ** 2 / (size ** 2 * (wide.narrow(d, 0, size + 1) + wide.narrow(d, 1, size + 1)) / 2
                                        + floor)).sum() for d in (0, 1))
    torch.testing.assert_close(other.reshape(-1) @ R @ other.reshape(-1), J)
    if size > 2:  # not the neighbours across the end of a row
        assert R[size - 1, size] == 0 and R[0, 1] < 0 and R[0, size] < 0


@pytest.mark.parametrize('sigma', [2, 4])
def test_roughness_is_the_fisher_information_of_a_smooth_kernel(sigma):
    """4 Σ (√k_i - √k_j)² / K² for floor → 0, up to second order; 2 / σ² / K² for a Gaussian."""
    size = 10 * sigma + 1
    k = gaussian(size, sigmas=sigma).double()
    J = float(k.reshape(-1) @ roughness(k, 1e-9) @ k.reshape(-1)) * size ** 2
    root = torch.nn.functional.pad(k, (1, 1, 1, 1)).sqrt()
    fisher = 4 * float(sum(root.diff(dim=d).square().sum() for d in (0, 1)))
    assert J == pytest.approx(fisher, rel=0.2 / sigma ** 2)
    assert J == pytest.approx(2 / sigma ** 2, rel=0.3 / sigma ** 2)


def test_roughness_counts_differences_relative_to_what_is_there():
    """A lattice on a plateau costs more than a bright line; noise on the ground more than on the line."""
    def J(k):
        k = k / k.sum()
        return float(k.reshape(-1) @ roughness(k) @ k.reshape(-1))

    line, plateau = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, 16, dtype=torch.float64)
    line[7:9, 3:13] = 1
    plateau[3:13, 3:13] = 1
    lattice = plateau.clone()
    lattice[3:13:2, 3:13] = 0
    assert J(lattice) > 1.5 * J(line) and J(plateau) < J(line)


@pytest.mark.parametrize(('s', 'size'), [(2, 5), (4, 8)])
def test_fit_kernel_with_smoothness_against_nnls(s, size):
    """Two rounds: weights from the start, then from the first round's kernel, scaled to sum 1."""
    degradation, ridge, smoothness = Degradation(s, size), 0.01, 0.2
    x = random(1, 3, *degradation.hr_size((9, 8)))
    y = degradation.forward(x, random_kernel(size) ** 4) * 30 + random(1, 3, 9, 8, seed=5)
    G, b = normal_equations(degradation, x, y)
    start = gaussian(size, sigmas=size / 5).double()
    expected = start
    for _ in range(2):
        H = ridged(G, ridge) + smoothness * G.diagonal().mean() * plain_roughness(expected)
        L = torch.linalg.cholesky(H)
        k, _ = nnls(L.T.numpy(), torch.linalg.solve_triangular(L, b[:, None], upper=False)[:, 0].numpy())
        expected = torch.from_numpy(k / k.sum()).reshape(size, size)
    found = fit_kernel(G, b, start, ridge, smoothness, iterations=3000)
    assert (expected == 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert (fit_kernel(G, b, start, ridge, iterations=3000) - found).abs().max() > 0.01  # it matters here


def test_smoothness_takes_away_noise_more_than_the_kernel():
    degradation, k = Degradation(2, 16), gaussian(16, sigmas=(1.5, 3)).double()
    x = random(1, 3, *degradation.hr_size((24, 24)))
    y = degradation.forward(x, k)
    G, b = normal_equations(degradation, x, y + 0.1 * random(*y.shape, seed=7))
    plain, smooth, flat = (fit_kernel(G, b, gaussian(16, sigmas=2.0).double(), 1e-3, smoothness)
                           for smoothness in (0.0, 1.0, 1e4))
    assert (smooth - k).norm() < 0.6 * min((plain - k).norm(), (flat - k).norm())
    torch.testing.assert_close(fit_kernel(9 * G, 9 * b, smooth, 1e-3, 0.1), fit_kernel(G, b, smooth, 1e-3, 0.1))


def test_fit_kernel_satisfies_the_kkt_conditions():
    """Gradient >= 0 where k = 0 and = 0 where k > 0, at the scale that the minimiser has before normalising."""
    size, ridge = 7, 0.02
    G, b, _ = normals(Degradation(2, size), random_kernel(size), (12, 12))
    b = b + 0.05 * b.abs().max() * random(len(b), seed=4)
    H = ridged(G, ridge)
    k = fit_kernel(G, b, torch.full((size, size), 1 / size ** 2, dtype=torch.float64), ridge, iterations=3000)
    k = k.reshape(-1)
    k = k * (k @ b) / (k @ H @ k)  # the minimiser's own scale: kᵀ(Hk - b) = 0
    gradient = H @ k - b
    assert k.min() == 0 and (gradient[k == 0] > -1e-8).all() and gradient[k > 0].abs().max() < 1e-8


@pytest.mark.parametrize(('s', 'k'), [(2, motion(9, 3)), (3, l_shape(12, 8, 2)), (4, gaussian(12, sigmas=(1, 3)))],
                         ids=['motion', 'l', 'gaussian'])
def test_the_true_image_gives_the_true_kernel(s, k):
    degradation, k = Degradation(s, len(k)), k.double()
    G, b, _ = normals(degradation, k, (24, 24))
    for start in (torch.full_like(k, 1 / k.numel()), gaussian(len(k), sigmas=1.0).double()):
        found = fit_kernel(G, b, start, ridge=1e-9, iterations=2000)
        torch.testing.assert_close(found, k, rtol=1e-3, atol=1e-4)
        assert found.min() >= 0 and float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_float32_and_the_default_iterations_suffice():
    degradation, k = Degradation(2, 16), l_shape(16, 10, 3)
    x = random(1, 3, *degradation.hr_size((40, 40))).float()
    found = fit_kernel(*normal_equations(degradation, x, degradation.forward(x, k)), gaussian(16, sigmas=2.5), 1e-3)
    assert found.dtype == torch.float32
    assert (found - k).abs().max() < 0.02 * k.max()


def test_the_ridge_is_a_share_of_the_normal_matrix():
    degradation, start = Degradation(2, 8), gaussian(8, sigmas=1.0).double()
    G, b, _ = normals(degradation, motion(8, 1).double(), (12, 12))
    torch.testing.assert_close(fit_kernel(9 * G, 9 * b, start, 0.1), fit_kernel(G, b, start, 0.1))  # contrast of x
    overwhelming = b.clamp_min(0).reshape(8, 8)  # H -> ridge · I
    torch.testing.assert_close(fit_kernel(G, b, start, 1e6), overwhelming / overwhelming.sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('level', [0.0, 0.5, -1.0])
def test_a_flat_image_tells_nothing_but_breaks_nothing(level):
    degradation, start = Degradation(4, 12), gaussian(12, sigmas=2.0)
    y = torch.full((1, 3, 8, 8), level)
    x = torch.full((1, 3, *degradation.hr_size((8, 8))), level)
    k = fit_kernel(*normal_equations(degradation, x, y), start, 1e-3)
    assert torch.isfinite(k).all() and k.min() >= 0 and math.isclose(float(k.sum()), 1, abs_tol=1e-5)
    if level == 0:
        assert torch.equal(k, start)  # no information at all
    picture = data_step(degradation, k, y, x, 1e-6)
    assert torch.isfinite(picture).all() and (picture - level).abs().max() < 1e-3


def test_an_image_that_contradicts_y_leaves_the_start():
    """x = -y's picture: no k >= 0 is better than none, and a sum of 0 cannot be normalised."""
    degradation, start = Degradation(2, 6), gaussian(6, sigmas=1.0)
    x = random(1, 1, *degradation.hr_size((8, 8))).float().abs()
    equations = normal_equations(degradation, x, -degradation.forward(x, start))
    for smoothness in (0.0, 0.1):
        assert torch.equal(fit_kernel(*equations, start, 1e-3, smoothness), start)


@pytest.mark.parametrize(('size', 'torus'), [(1, (4, 5)), (3, (20, 31)), (5, (7, 6))])
def test_the_covariance_of_two_pixels_of_a_window_is_that_of_their_distance(size, torus):
    lags = random(*torus)
    expected = torch.stack([lags[(i // size - j // size) % torus[0], (i % size - j % size) % torus[1]]
                            for i in range(size ** 2) for j in range(size ** 2)])
    assert torch.equal(window_covariance(lags, size), expected.reshape(size ** 2, size ** 2))


def power_law(side):
    f = torch.fft.fftfreq(side, dtype=torch.float64)
    return 0.02 / (0.02 + f[:, None] ** 2 + f ** 2) ** 1.5


def test_the_covariance_left_open_is_that_of_the_best_linear_denoiser():
    """x of power S, seen in white noise: Wiener's estimate leaves S sigma² / (S + sigma²) open."""
    side, size, sigma = 384, 5, 0.4
    S = power_law(side)
    x, n = coloured(S, 1), random(1, 3, side, side, seed=2)
    change = filtered(x + sigma * n, S / (S + sigma ** 2)) - x
    lags = torch.fft.ifft2(S * sigma ** 2 / (S + sigma ** 2)).real
    C = window_covariance(covariance_lags(n, change, sigma), size)
    assert C.shape == (size ** 2, size ** 2)
    for i in range(size ** 2):
        for j in range(size ** 2):
            expected = lags[i // size - j // size, i % size - j % size]
            assert abs(C[i, j] - expected) < 0.03 * lags[0, 0]
    actual = change.square().mean()  # the very errors of this picture
    assert abs(C[0, 0] / actual - 1) < 0.03
