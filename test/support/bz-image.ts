/** A bzImage as far as its header says its version. Source: Documentation/arch/x86/boot.rst. */
export function bzImage(release: string): Buffer {
  const image = Buffer.alloc(8192);
  image.write('HdrS', 0x202);
  image.writeUInt16LE(0x1000, 0x20e);
  image.write(`${release} (somebody@somewhere) #1 SMP\0`, 0x1200);
  return image;
}
