// Reads the size of an image from its first bytes, before a browser decodes it: a small file can
// have thousands of millions of pixels.

const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const begins = (bytes, ...wanted) => wanted.every((byte, index) => bytes[index] === byte);
const ascii = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

/** Return {width, height} of a PNG, JPEG, GIF or WebP, or null if the bytes do not tell. */
export function imageSize(bytes) {
  try {
    if (begins(bytes, 0x89, 0x50, 0x4e, 0x47) && ascii(bytes, 12, 16) === "IHDR") {
      return { width: view(bytes).getUint32(16), height: view(bytes).getUint32(20) };
    }
    if (begins(bytes, 0x47, 0x49, 0x46, 0x38)) {
      return { width: view(bytes).getUint16(6, true), height: view(bytes).getUint16(8, true) };
    }
    if (begins(bytes, 0xff, 0xd8)) {
      return sizeOfJpeg(view(bytes));
    }
    if (ascii(bytes, 0, 4) === "RIFF" && ascii(bytes, 8, 12) === "WEBP") {
      return sizeOfWebp(bytes);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) {
      throw error; // a RangeError: the bytes end before the size
    }
  }
  return null;
}

/** Step over the segments to the one with the size (SOF: C0 to CF but for C4, C8 and CC). */
function sizeOfJpeg(data) {
  for (let at = 2; ; ) {
    if (data.getUint8(at) !== 0xff) {
      return null;
    }
    const marker = data.getUint8(at + 1);
    if (marker === 0xff) {
      at += 1; // padding
    } else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      return { height: data.getUint16(at + 5), width: data.getUint16(at + 7) };
    } else {
      at += 2 + data.getUint16(at + 2);
    }
  }
}

function sizeOfWebp(bytes) {
  const data = view(bytes);
  const kind = ascii(bytes, 12, 16);
  if (kind === "VP8X") {
    const three = (at) => data.getUint16(at, true) + data.getUint8(at + 2) * 65536;
    return { width: three(24) + 1, height: three(27) + 1 };
  }
  if (kind === "VP8L") {
    const bits = data.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
  }
  if (kind === "VP8 ") {
    return { width: data.getUint16(26, true) & 0x3fff, height: data.getUint16(28, true) & 0x3fff };
  }
  return null;
}
