// A constant-Q transform: energy by time and frequency, in Gaussian windows as many periods long at each frequency.
// The mean energy of white noise of unit variance is one everywhere.

const PERIODS = 1.1; // standard deviation of the window, in periods: short, for a merger sweeps fast
const REACH = 2.6; // of the window, in its standard deviations
export const LOWEST = 18; // Hz: below it, the whitened stream is empty
const HIGHEST = 0.43; // of the rate: above it, the filter before the decimation cuts in

export class QTransform {
  constructor(rate, rows) {
    const high = HIGHEST * rate;
    this.frequencies = Float64Array.from({ length: rows }, (_, k) => LOWEST * (high / LOWEST) ** (k / (rows - 1)));
    this.kernels = Array.from(this.frequencies, (frequency) => kernel(frequency, rate));
    this.half = this.kernels[0].half; // samples needed on either side, of the longest
  }

  // Energies at sample `centre` into `out`, lowest frequency first. What is not a number counts as zero.
  column(samples, centre, out) {
    this.kernels.forEach(({ half, cos, sin }, row) => {
      let re = 0, im = 0;
      const from = centre - half;
      for (let k = 0; k < cos.length; k++) {
        const sample = samples[from + k];
        if (sample !== sample || sample === undefined) continue;
        re += sample * cos[k];
        im += sample * sin[k];
      }
      out[row] = re * re + im * im;
    });
  }
}

function kernel(frequency, rate) {
  const sigma = (PERIODS / frequency) * rate; // samples
  const half = Math.ceil(REACH * sigma);
  const window = Float64Array.from({ length: 2 * half + 1 }, (_, k) => Math.exp(-0.5 * ((k - half) / sigma) ** 2));
  const norm = Math.sqrt(window.reduce((sum, w) => sum + w * w, 0));
  const turn = (2 * Math.PI * frequency) / rate;
  return {
    half,
    cos: window.map((w, k) => (w / norm) * Math.cos(turn * (k - half))),
    sin: window.map((w, k) => (w / norm) * Math.sin(turn * (k - half))),
  };
}
