package org.hwnas.kit;

import java.nio.ByteBuffer;

/** Pixels from 0 to 255, (height, width, channels), and how they are made what a network is fed. */
public final class Image {
  static final long MAX_PIXELS = 50_000_000;

  /** How the bytes of an image file become pixels: Android's decoder, where there is one. */
  public interface Decoder {
    /** Raises Refused with the end of a sentence that begins with the file's name. */
    Image decode(byte[] file) throws Refused;
  }

  final int height, width, channels;
  final float[] pixels;  // whole numbers while nothing is resized

  Image(int height, int width, int channels, float[] pixels) {
    this.height = height;
    this.width = width;
    this.channels = channels;
    this.pixels = pixels;
  }

  /** Of 0xAARRGGBB, as Android has them: the colours, whatever their alpha. */
  public static Image ofArgb(int height, int width, int[] argb) {
    float[] pixels = new float[3 * argb.length];
    for (int i = 0; i < argb.length; ++i)
      for (int c = 0; c < 3; ++c) pixels[3 * i + c] = argb[i] >> (16 - 8 * c) & 0xFF;
    return new Image(height, width, 3, pixels);
  }

  /** Of a .npy file (h, w) or (h, w, channels) of uint8, or of whatever the decoder reads. */
  static Image read(byte[] file, String name, int channels, Decoder decoder) throws Refused {
    if (name.toLowerCase(java.util.Locale.ROOT).endsWith(".npy")) {
      Tensor array;
      try {
        array = Tensor.ofNpy(file);
      } catch (Refused error) {
        throw new Refused(name + " is no readable .npy array");
      }
      long[] shape = array.shape.length == 2 ? new long[] {array.shape[0], array.shape[1], 1} : array.shape;
      if (!array.type.equals("uint8") || shape.length != 3 || shape[2] != channels || Tensor.elements(shape) > MAX_PIXELS)
        throw new Refused(name + " must hold at most " + MAX_PIXELS + " uint8 pixels of shape (h, w, " + channels + ")");
      float[] pixels = new float[array.data.limit()];
      for (int i = 0; i < pixels.length; ++i) pixels[i] = array.data.get(i) & 0xFF;
      return new Image((int) shape[0], (int) shape[1], channels, pixels);
    }
    if (channels != 1 && channels != 3) throw new Refused("the network takes " + channels + " channels, which an image file does not have; give a .npy file");
    if (decoder == null) throw new Refused(name + " is no .npy file, and there is no decoder of images here");
    try {
      return decoder.decode(file).with(channels);
    } catch (Refused error) {
      throw new Refused(name + " " + error.getMessage());
    }
  }

  /** Grey is the luma of ITU-R 601, in whole numbers as Pillow has it. */
  private Image with(int wanted) {
    if (wanted == channels) return this;
    float[] grey = new float[height * width];
    for (int i = 0; i < grey.length; ++i)
      grey[i] = ((int) pixels[3 * i] * 19595 + (int) pixels[3 * i + 1] * 38470 + (int) pixels[3 * i + 2] * 7471 + 32768) >> 16;
    return new Image(height, width, 1, grey);
  }

  /** The central square whose side is that share of the shorter side; 0: the whole image. */
  private Image centre(double share) {
    if (share == 0) return this;
    int side = Math.max(1, (int) Math.rint(share * Math.min(height, width))), top = (height - side) / 2, left = (width - side) / 2;
    float[] cut = new float[side * side * channels];
    for (int y = 0; y < side; ++y) System.arraycopy(pixels, ((top + y) * width + left) * channels, cut, y * side * channels, side * channels);
    return new Image(side, side, channels, cut);
  }

  /** Along one axis: which samples each new one is made of, and their weights. A triangle, wider where the image shrinks (antialiasing). */
  private static final class Window {
    final int first;
    final double[] weights;

    Window(int i, int size, int target) {
      double scale = (double) size / target, support = Math.max(scale, 1.0), middle = (i + 0.5) * scale, sum = 0;
      first = (int) Math.max(0, Math.floor(middle - support));
      weights = new double[(int) Math.min(size, Math.ceil(middle + support) + 1) - first];
      for (int j = 0; j < weights.length; ++j) sum += weights[j] = Math.max(0, 1 - Math.abs(first + j + 0.5 - middle) / support);
      for (int j = 0; j < weights.length; ++j) weights[j] /= sum;
    }

    static Window[] of(int size, int target) {
      Window[] all = new Window[target];
      for (int i = 0; i < target; ++i) all[i] = new Window(i, size, target);
      return all;
    }
  }

  /** Bilinear interpolation with antialiasing, as in training: (tall, wide, channels) numbers. */
  private double[] resized(int tall, int wide) throws Refused {
    if ((double) height * wide * channels > 4.0 * MAX_PIXELS) throw new Refused("an image of " + width + " x " + height + " pixels is too long to be made " + wide + " x " + tall);
    Window[] across = Window.of(width, wide), down = Window.of(height, tall);
    double[] narrow = new double[height * wide * channels], made = new double[tall * wide * channels];
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < wide; ++x)
        for (int c = 0; c < channels; ++c) {
          double sum = 0;
          for (int j = 0; j < across[x].weights.length; ++j) sum += across[x].weights[j] * pixels[(y * width + across[x].first + j) * channels + c];
          narrow[(y * wide + x) * channels + c] = sum;
        }
    for (int y = 0; y < tall; ++y)
      for (int x = 0; x < wide * channels; ++x) {
        double sum = 0;
        for (int j = 0; j < down[y].weights.length; ++j) sum += down[y].weights[j] * narrow[(down[y].first + j) * wide * channels + x];
        made[y * wide * channels + x] = sum;
      }
    return made;
  }

  /** What the network is fed of it, as often as its batch wants. */
  Tensor fed(Manifest manifest) throws Refused {
    int batch = manifest.freeBatch ? 1 : manifest.batch;
    if (manifest.kind.equals("image")) {  // the file does all of it
      double[] all = new double[pixels.length];
      for (int i = 0; i < all.length; ++i) all[i] = pixels[i];
      return bytes(manifest, all, new long[] {batch, height, width, channels});
    }
    double[] small = centre(manifest.crop).resized(manifest.height, manifest.width);
    if (manifest.kind.equals("pixels")) return bytes(manifest, small, new long[] {batch, manifest.height, manifest.width, channels});
    int plane = manifest.height * manifest.width;
    ByteBuffer data = Tensor.memory(4L * batch * small.length);
    for (int i = 0; i < batch * small.length; ++i) {
      int at = i % small.length, c = at / plane;
      double value = small[at % plane * channels + c] / 255 * (manifest.high - manifest.low) + manifest.low;
      data.putFloat((float) ((value - manifest.mean[c]) / manifest.std[c]));
    }
    return new Tensor(manifest.input, "float32", new long[] {batch, channels, manifest.height, manifest.width}, Tensor.rewound(data));
  }

  private static Tensor bytes(Manifest manifest, double[] values, long[] shape) throws Refused {
    byte[] once = new byte[values.length];
    for (int i = 0; i < once.length; ++i) once[i] = (byte) Math.max(0, Math.min(255, Math.rint(values[i])));  // halves go to the even number, as in training
    ByteBuffer data = Tensor.memory(shape[0] * once.length);
    for (long i = 0; i < shape[0]; ++i) data.put(once);
    return new Tensor(manifest.input, "uint8", shape, Tensor.rewound(data));
  }
}
