// Starts the page, or says in one line why it cannot. For browsers of any age.
(function () {
  // A function with one SIMD instruction: (i32.const 0) (i8x16.splat) (drop).
  var simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0,
    10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11];

  function findProblem() {
    if (location.protocol === "file:") {
      return "Browsers run this page from a server only: in its folder, run " +
        "\u201cpython -m http.server\u201d, and open http://localhost:8000.";
    }
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(simd))) {
      return "This page needs WebAssembly with SIMD, which this browser lacks or has " +
        "switched off. Use one from 2023 or later.";
    }
    if (typeof Worker !== "function" || typeof OffscreenCanvas !== "function") {
      return "This page needs a newer browser, from 2023 or later.";
    }
    return null;
  }

  var problem = findProblem();
  if (problem) {
    document.getElementById("progress").hidden = true;
    document.getElementById("status").className = "error";
    document.getElementById("status").textContent = problem;
  } else {
    var script = document.createElement("script");
    script.type = "module";
    script.src = "page.js";
    document.head.appendChild(script);
  }
})();
