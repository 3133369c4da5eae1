package org.hwnas.kit;

/** One sentence for people. Code 2: a file or request is refused; 1: the network does not compute, or take, what it should. */
public class Refused extends Exception {
  public final int code;

  public Refused(String sentence) {
    this(sentence, 2);
  }

  private Refused(String sentence, int code) {
    super(sentence);
    this.code = code;
  }

  public static Refused mismatch(String sentence) {
    return new Refused(sentence, 1);
  }
}
