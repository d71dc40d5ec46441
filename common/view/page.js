"use strict";
// Shows every run's model with one camera for all of them, so that they turn together.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const start = { azimuth: 0.6, elevation: 0.3, distance: 3.2 };
  const eye = { ...start };
  const stages = [];
  let mode = "lit", turning = false, wanted = true;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

  function materials(original) {
    const map = original.map || null;
    return {
      lit: new THREE.MeshLambertMaterial({ map, side: THREE.DoubleSide }),
      texture: new THREE.MeshBasicMaterial({ map, side: THREE.DoubleSide }),
      normals: new THREE.MeshNormalMaterial({ side: THREE.DoubleSide }),
      wireframe: new THREE.MeshBasicMaterial({ color: 0x2a4d8f, wireframe: true }),
    };
  }

  function stage(canvas, glb) {
    const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, preserveDrawingBuffer: true });
    renderer.outputEncoding = THREE.sRGBEncoding;
    const scene = new THREE.Scene();
    scene.background = new THREE.Color(0xffffff);
    const camera = new THREE.PerspectiveCamera(40, 4 / 3, 0.05, 50);
    const lamp = new THREE.PointLight(0xffffff, 0.75);
    camera.add(lamp);
    scene.add(camera, new THREE.AmbientLight(0xffffff, 0.45));
    const made = { renderer, scene, camera, canvas, meshes: [] };
    new THREE.GLTFLoader().parse(bytes(glb), "", (file) => {
      file.scene.traverse((node) => {
        if (!node.isMesh) return;
        if (!node.geometry.attributes.normal) node.geometry.computeVertexNormals();
        made.meshes.push({ node, materials: materials(node.material) });
      });
      scene.add(file.scene);
      canvas.dataset.loaded = "yes";
      dress();
    }, (error) => console.error("the model can't be read", error));
    return made;
  }

  function dress() {
    for (const { meshes } of stages)
      for (const { node, materials } of meshes) node.material = materials[mode];
    wanted = true;
  }

  function draw() {
    if (turning) { eye.azimuth += 0.01; wanted = true; }
    if (wanted) {
      wanted = false;
      const flat = Math.cos(eye.elevation) * eye.distance;
      for (const { renderer, scene, camera, canvas } of stages) {
        const { clientWidth: width, clientHeight: height } = canvas;
        renderer.setPixelRatio(window.devicePixelRatio);
        renderer.setSize(width, height, false);
        camera.aspect = width / Math.max(1, height);
        camera.updateProjectionMatrix();
        // The files' front looks along +Z, their top along +Y.
        camera.position.set(
          flat * Math.sin(eye.azimuth), eye.distance * Math.sin(eye.elevation),
          flat * Math.cos(eye.azimuth));
        camera.lookAt(0, 0, 0);
        renderer.render(scene, camera);
        canvas.dataset.azimuth = eye.azimuth.toFixed(4);
      }
    }
    requestAnimationFrame(draw);
  }

  function moves(canvas) {
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => { from = null; });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      eye.azimuth -= (event.clientX - from[0]) * 0.01;
      eye.elevation += (event.clientY - from[1]) * 0.01;
      eye.elevation = Math.max(-1.55, Math.min(1.55, eye.elevation));
      from = [event.clientX, event.clientY];
      wanted = true;
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      eye.distance = Math.max(1.2, Math.min(12, eye.distance * Math.exp(event.deltaY * 0.001)));
      wanted = true;
    }, { passive: false });
  }

  for (const canvas of document.querySelectorAll("canvas[data-run]")) {
    stages.push(stage(canvas, data.models[Number(canvas.dataset.run)]));
    moves(canvas);
  }
  for (const button of document.querySelectorAll("button[data-mode]"))
    button.addEventListener("click", () => {
      mode = button.dataset.mode;
      for (const other of document.querySelectorAll("button[data-mode]"))
        other.setAttribute("aria-pressed", String(other === button));
      dress();
    });
  const turn = document.querySelector("button[data-turn]");
  turn.addEventListener("click", () => {
    turning = !turning;
    turn.setAttribute("aria-pressed", String(turning));
  });
  document.querySelector("button[data-reset]").addEventListener("click", () => {
    Object.assign(eye, start);
    wanted = true;
  });
  window.addEventListener("resize", () => { wanted = true; });
  draw();
})();
